"""Step 4 (`process`) of the flow: a turn of a processor, and the transaction that commits the turn.

A `Turn` only records what the processor requests: jobs, and the release of instances. `Turn.commit` writes all requests
in one transaction, or raises an error and writes nothing.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from uuid import uuid4

from attrs import Factory, define, evolve, frozen

from dicom_adapter.api.errors import DicomAdapterError, Refused
from dicom_adapter.api.values import INTERRUPTED, InstanceStorageInfo, Job, JobPriority, JobRequest
from dicom_adapter.ledger import Transaction, events, instances, jobs
from dicom_adapter.ledger.events import JOB_INCOMPLETE, Event

JOB_ID = re.compile("[0-9a-f]{32}")


@frozen
class Committed:
    """The committed changes of a turn."""

    jobs: tuple[Job, ...] = ()
    released: tuple[int, ...] = ()  # instance ids
    studies: Mapping[str, tuple[str, ...]] = Factory(dict)  # Study Instance UIDs of each job, by job id
    arrived: Mapping[str, datetime] = Factory(dict)  # arrival of the last instance of each job, by job id


class Unavailable(DicomAdapterError):
    """A turn failed because of the ledger or the storage backend, not because of the processor or the instance."""


class Unreadable(Unavailable):
    """The storage backend has a stored object, and failed to read it."""

    def __init__(self, instance: InstanceStorageInfo, failure: OSError) -> None:
        kind = errno.errorcode.get(failure.errno or 0, type(failure).__name__)
        super().__init__(f"the stored file of instance {instance.instance_id} cannot be read ({kind})")
        self.instance = instance


class Superseded(DicomAdapterError):
    """A newer instance, which the processor has not seen, may change its decision: the turn must be repeated."""

    def __init__(self, by: int) -> None:
        super().__init__(
            f"the processor has not seen instance {by} yet, which arrived before this turn or replaces another instance"
        )
        self.by = by  # id of the newest instance that the processor has not seen


@frozen
class Required:
    """The instances that the processor must have seen before the turn of a timer: those that arrived until `due`."""

    number: int  # id of the last instance that the lane has read
    due: datetime  # time at which the timer was due; differs from the time of the turn if the clock was put back


@frozen
class Note:
    """A note of a processor about some instances, which `explain` shows."""

    what: str  # the event, for example "evicted"
    reason: str
    numbers: tuple[int, ...]  # instance ids


@define
class Turn:
    """One call of a processor: the time that the processor sees, and its requests. Not thread-safe."""

    ae_title: str
    source: str  # value of the metadata `Source` of the jobs
    submitter: str  # name of the default submitter for jobs
    submitters: Collection[str]  # names of the submitters that jobs may use
    now: datetime  # time of the turn in UTC, as the processor's `now` returns it
    submissions: list[tuple[Job, tuple[int, ...]]] = Factory(list)  # jobs, with the ids of their instances
    removed: list[int] = Factory(list)  # ids of the instances to release
    notes: list[Note] = Factory(list)
    studies: dict[str, tuple[str, ...]] = Factory(dict)  # Study Instance UIDs of each job, by job id
    arrived: dict[str, datetime] = Factory(dict)  # arrival of the last instance of each job, by job id

    @property
    def is_empty(self) -> bool:
        """Return whether the processor requested nothing."""
        return not (self.submissions or self.removed or self.notes)

    def submit(self, request: JobRequest) -> Job:
        """Record the request for a job. Raises Refused for an invalid request."""
        chosen = tuple(self._check(request.instances))
        numbers = tuple(instance.instance_id for instance in chosen)
        if not request.name or not request.pipeline_id:
            raise Refused("a job needs a name and a pipeline id")
        if not numbers:
            raise Refused(f"job '{request.name}' has no instances")
        if request.submitter is not None and request.submitter not in self.submitters:
            names = ", ".join(sorted(self.submitters))
            raise Refused(f"there is no submitter {request.submitter!r} (there are: {names})")
        if request.job_id is not None and not JOB_ID.fullmatch(request.job_id):
            raise Refused(f"job id {request.job_id!r} must be 32 lower-case hexadecimal digits")
        job = Job(
            job_id=request.job_id or uuid4().hex,
            name=request.name,
            ae_title=self.ae_title,
            pipeline_id=request.pipeline_id,
            priority=JobPriority(request.priority),
            submitter=request.submitter or self.submitter,
            instance_count=len(numbers),
            metadata={"Source": self.source, **request.metadata},
            created_at=self.now,
            changed_at=self.now,
        )
        self.submissions.append((job, numbers))
        self.studies[job.job_id] = tuple(dict.fromkeys(instance.study_instance_uid for instance in chosen))
        self.arrived[job.job_id] = max(instance.received_at for instance in chosen)
        return job

    def remove(self, released: Iterable[InstanceStorageInfo]) -> None:
        """Record that the processor does not need these instances any longer."""
        self.removed += [instance.instance_id for instance in self._check(released)]

    def note(self, what: str, concerned: Iterable[InstanceStorageInfo], reason: str) -> None:
        """Record a note about these instances, which `explain` shows."""
        self.notes.append(Note(what, reason, tuple(instance.instance_id for instance in self._check(concerned))))

    def commit(self, transaction: Transaction, delivered: int, required: Required | None = None) -> Committed:
        """Write jobs, releases and their events.

        `delivered` is the id of the last instance that was delivered to the processor. Raises Refused if an instance is
        not pending or was not delivered, or if a job id exists already. Raises Superseded in two cases:
        - an instance that was not delivered yet replaces an instance of this turn (it may belong to another group);
        - an instance that the lane has not read arrived before the timer was due (it may belong to the same group).
        """
        requested = {number for _job, numbers in self.submissions for number in numbers} | set(self.removed)
        current = instances.resolve_pending(transaction, sorted(requested))  # the newest arrival of each instance
        not_pending = sorted(requested - current.keys())
        if not_pending:
            raise Refused(f"instances {not_pending[:5]} are not pending at AE title '{self.ae_title}'")
        undelivered = sorted(number for number in requested if number > delivered)
        if undelivered:
            raise Refused(f"instances {undelivered[:5]} have not been delivered to this processor yet")
        newest = max(current.values(), default=0)
        if newest > delivered:
            raise Superseded(newest)
        if required is not None:
            late = instances.arrived_late(transaction, self.ae_title, required.number, required.due)
            if late is not None:
                raise Superseded(late)
        for job, _numbers in self.submissions:
            if jobs.get(transaction, job.job_id) is not None:
                raise Refused(f"job {job.job_id} exists already")
        submitted = tuple(_insert_job(transaction, job, numbers, current) for job, numbers in self.submissions)
        released = tuple(dict.fromkeys(current[number] for number in self.removed))
        instances.release(transaction, released, self.now)
        events.record(transaction, [_queued_event(job) for job in submitted])
        events.record(transaction, [_incomplete_event(job) for job in submitted if INTERRUPTED in job.metadata])
        events.record(transaction, [_note_event(self, note, number) for note in self.notes for number in note.numbers])
        return Committed(submitted, released, self.studies, self.arrived)

    def _check(self, chosen: Iterable[InstanceStorageInfo]) -> Iterable[InstanceStorageInfo]:
        for instance in chosen:
            if instance.ae_title != self.ae_title:
                raise Refused(f"instance {instance.instance_id} belongs to another AE title than '{self.ae_title}'")
            yield instance


def _insert_job(transaction: Transaction, job: Job, numbers: tuple[int, ...], current: Mapping[int, int]) -> Job:
    # If a SOP instance arrived several times, the job contains only the newest arrival.
    newest = list(dict.fromkeys(current[number] for number in numbers))
    metadata = {**job.metadata, "Instances": str(len(newest))}
    job = evolve(job, instance_count=len(newest), metadata=metadata)
    jobs.insert(transaction, job, newest)
    return job


def _queued_event(job: Job) -> Event:
    detail = {"name": job.name, "pipeline": job.pipeline_id, "instances": job.instance_count}
    return Event(at=job.created_at, event="job_queued", ae_title=job.ae_title, job_id=job.job_id, detail=detail)


def _incomplete_event(job: Job) -> Event:
    """Return the event about a job that may be incomplete. It is an event of the AE title: `status` finds it fast."""
    detail = {"reason": job.metadata[INTERRUPTED], "job": job.job_id}
    return Event(at=job.created_at, event=JOB_INCOMPLETE, ae_title=job.ae_title, detail=detail)


def _note_event(turn: Turn, note: Note, number: int) -> Event:
    detail = {"what": note.what, "reason": note.reason}
    return Event(at=turn.now, event="instance_noted", ae_title=turn.ae_title, instance_id=number, detail=detail)
