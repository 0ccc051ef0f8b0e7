"""Part of step 4: what a lane offers to its processor: turns, timers, and the headers of stored instances.

A `Turn` only records. `Turn.commit` writes all of it in one transaction, or raises and nothing has happened.
"""

from __future__ import annotations

import errno
import heapq
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from attrs import Factory, define, evolve, field, frozen

from dicom_adapter.calls import Maker
from dicom_adapter.errors import DicomAdapterError, Refused, StoredObjectMissing, Unprocessable, describe_failure
from dicom_adapter.ledger import Ledger, Transaction, events, instances, jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.model import InstanceStorageInfo, Job, JobPriority
from dicom_adapter.processor import JobProcessorBase, Timer
from dicom_adapter.storage import StorageBackend

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

JOB_ID = re.compile("[0-9a-f]{32}")
LATEST_TIMER = datetime(2200, 1, 1, tzinfo=timezone.utc)  # no thread can be told to wait longer than 292 years


@frozen(kw_only=True)
class LaneSettings:
    """What a lane works with."""

    ae_title: str
    processor: Maker[JobProcessorBase[Any]]  # of its settings and a context
    settings: Any
    submitter: str  # of jobs that name none
    submitters: Collection[str]  # that jobs may name
    data_folder: Path

    def made_folder(self) -> Path:
        """The data folder, which is there from now on."""
        self.data_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.data_folder


@frozen
class Committed:
    """What a turn changed."""

    jobs: tuple[Job, ...] = ()
    released: tuple[int, ...] = ()


class Unavailable(DicomAdapterError):
    """The ledger or the storage backend failed a turn, through no fault of the processor or the instance."""


class Unreadable(Unavailable):
    """The storage backend has an instance, and failed to read it."""

    def __init__(self, instance: InstanceStorageInfo, failure: OSError) -> None:
        kind = errno.errorcode.get(failure.errno or 0, type(failure).__name__)
        super().__init__(f"the stored file of instance {instance.instance_id} cannot be read ({kind})")
        self.instance = instance


class Superseded(DicomAdapterError):
    """A turn did not know of an arrival that changes what it decided: it has to be taken again."""

    def __init__(self, by: int) -> None:
        super().__init__(
            f"its processor has yet to see instance {by}, which came before this turn or stands for another"
        )
        self.by = by  # the newest of those arrivals


@frozen
class Note:
    """What a processor has `explain` tell of some instances."""

    what: str  # became of them, such as "evicted"
    reason: str
    numbers: tuple[int, ...]


@define
class Turn:
    """One call of a processor: the time that it sees, and what it asks for."""

    ae_title: str
    source: str  # the metadata `Source` of its jobs
    submitter: str  # of jobs that name none
    submitters: Collection[str]
    now: datetime
    submissions: list[tuple[Job, tuple[int, ...]]] = Factory(list)
    removed: list[int] = Factory(list)
    notes: list[Note] = Factory(list)

    @property
    def is_empty(self) -> bool:
        """Whether it asks for nothing."""
        return not (self.submissions or self.removed or self.notes)

    def submit(
        self,
        name: str,
        pipeline_id: str,
        priority: JobPriority,
        taken: Iterable[InstanceStorageInfo],
        metadata: Mapping[str, str],
        submitter: str | None,
        job_id: str | None,
    ) -> Job:
        """Record the wish for a job. Raises Refused for what can never be a job."""
        numbers = tuple(instance.instance_id for instance in self._own(taken))
        if not name or not pipeline_id:
            raise Refused("a job needs a name and a pipeline id")
        if not numbers:
            raise Refused(f"job '{name}' has no instances")
        if submitter is not None and submitter not in self.submitters:
            raise Refused(f"there is no submitter {submitter!r} (there are: {', '.join(sorted(self.submitters))})")
        if job_id is not None and not JOB_ID.fullmatch(job_id):
            raise Refused(f"job id {job_id!r} must be 32 lower-case hexadecimal digits")
        job = Job(
            job_id=job_id or uuid4().hex,
            name=name,
            ae_title=self.ae_title,
            pipeline_id=pipeline_id,
            priority=JobPriority(priority),
            submitter=submitter or self.submitter,
            instance_count=len(numbers),
            metadata={"Source": self.source, **metadata},
            created_at=self.now,
            changed_at=self.now,
        )
        self.submissions.append((job, numbers))
        return job

    def remove(self, taken: Iterable[InstanceStorageInfo]) -> None:
        """Record that the processor needs these no longer."""
        self.removed += [instance.instance_id for instance in self._own(taken)]

    def note(self, what: str, told: Iterable[InstanceStorageInfo], reason: str) -> None:
        """Record what is to be told of these."""
        self.notes.append(Note(what, reason, tuple(instance.instance_id for instance in self._own(told))))

    def commit(self, transaction: Transaction, delivered: int, read: int | None = None) -> Committed:
        """Write jobs, releases and their events; `delivered` is the last instance that the processor has seen.

        `read`, in a timer's turn, is the last instance that the lane knows of. Raises Refused when an instance is not
        pending, and Superseded when the processor has yet to see a newer arrival that stands for one (it may belong to
        another group, or to none), or one after `read` that had come when the timer was to ring: it may belong here.
        """
        asked = {number for _job, numbers in self.submissions for number in numbers} | set(self.removed)
        meaning = instances.resolve_pending(transaction, sorted(asked))
        lost = sorted(asked - meaning.keys())
        if lost:
            raise Refused(f"instances {lost[:5]} are not pending at AE title '{self.ae_title}'")
        unseen = sorted(number for number in asked if number > delivered)
        if unseen:
            raise Refused(f"instances {unseen[:5]} have not been given to this processor yet")
        newest = max(meaning.values(), default=0)
        if newest > delivered:
            raise Superseded(newest)
        late = None if read is None else instances.arrived_late(transaction, self.ae_title, read, self.now)
        if late is not None:
            raise Superseded(late)
        for job, _numbers in self.submissions:
            if jobs.get(transaction, job.job_id) is not None:
                raise Refused(f"there is a job {job.job_id} already")
        submitted = tuple(_enter(transaction, job, numbers, meaning) for job, numbers in self.submissions)
        released = tuple(dict.fromkeys(meaning[number] for number in self.removed))
        instances.release(transaction, released, self.now)
        events.record(transaction, [_queued(job) for job in submitted])
        events.record(transaction, [_noted(self, note, number) for note in self.notes for number in note.numbers])
        return Committed(submitted, released)

    def _own(self, taken: Iterable[InstanceStorageInfo]) -> Iterable[InstanceStorageInfo]:
        for instance in taken:
            if instance.ae_title != self.ae_title:
                raise Refused(f"instance {instance.instance_id} belongs to another AE title than '{self.ae_title}'")
            yield instance


def _enter(transaction: Transaction, job: Job, numbers: tuple[int, ...], meaning: Mapping[int, int]) -> Job:
    # Two arrivals of one SOP instance mean the newer one, once.
    meant = list(dict.fromkeys(meaning[number] for number in numbers))
    metadata = {**job.metadata, "Instances": str(len(meant))}
    job = evolve(job, instance_count=len(meant), metadata=metadata)
    jobs.insert(transaction, job, meant)
    return job


def _queued(job: Job) -> Event:
    detail = {"name": job.name, "pipeline": job.pipeline_id, "instances": job.instance_count}
    return Event(at=job.created_at, event="job_queued", ae_title=job.ae_title, job_id=job.job_id, detail=detail)


def _noted(turn: Turn, note: Note, number: int) -> Event:
    detail = {"what": note.what, "reason": note.reason}
    return Event(at=turn.now, event="instance_noted", ae_title=turn.ae_title, instance_id=number, detail=detail)


@define(order=True)
class Alarm:
    """A callback at a time; equal times call back in the order in which they were set."""

    when: datetime
    number: int
    callback: Callable[[], None] | None = field(order=False)

    def cancel(self) -> None:
        self.callback = None


class Timers:
    """The alarms of one processor, soonest first."""

    def __init__(self) -> None:
        self._heap: list[Alarm] = []
        self._numbers = count()

    def set(self, when: datetime, callback: Callable[[], None]) -> Alarm:
        alarm = Alarm(when, next(self._numbers), callback)
        heapq.heappush(self._heap, alarm)
        return alarm

    def first(self) -> Alarm | None:
        """The next alarm that was not cancelled; it stays."""
        while self._heap and self._heap[0].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def pop(self) -> Alarm:
        """Take the alarm that `first` showed."""
        return heapq.heappop(self._heap)


class Context:
    """What the lane offers to one processor (see `processor.ProcessorContext`)."""

    def __init__(self, settings: LaneSettings, storage: StorageBackend[Any], ledger: Ledger) -> None:
        self.ae_title = settings.ae_title
        self.timers = Timers()
        self.opening_at: datetime | None = None  # the time that the processor sees while it is opened
        self._settings = settings
        self._storage = storage
        self._ledger = ledger
        self._turn: Turn | None = None

    def begin(self, now: datetime) -> Turn:
        settings = self._settings
        source = f"{settings.ae_title} ({settings.processor.cls.name})"
        self._turn = Turn(
            ae_title=self.ae_title,
            source=source,
            submitter=settings.submitter,
            submitters=settings.submitters,
            now=now,
        )
        return self._turn

    def end(self) -> None:
        self._turn = None

    @property
    def data_folder(self) -> Path:
        return self._settings.made_folder()

    def now(self) -> datetime:
        return self.opening_at or self._current().now

    def submit(
        self,
        name: str,
        pipeline_id: str,
        priority: JobPriority,
        instances: Iterable[InstanceStorageInfo],
        metadata: Mapping[str, str],
        submitter: str | None,
        job_id: str | None,
    ) -> Job:
        return self._current().submit(name, pipeline_id, priority, instances, metadata, submitter, job_id)

    def remove(self, instances: Iterable[InstanceStorageInfo]) -> None:
        self._current().remove(instances)

    def record(self, what: str, instances: Iterable[InstanceStorageInfo], reason: str) -> None:
        self._current().note(what, instances, reason)

    def find_job(self, job_id: str) -> Job | None:
        return find_job(self._ledger, self.ae_title, job_id)

    def call_at(self, when: datetime, callback: Callable[[], None]) -> Timer:
        if when.utcoffset() is None:
            raise ValueError("call_at needs a time with a time zone, such as UTC: self.now() + timedelta(seconds=5)")
        if when > LATEST_TIMER:
            raise ValueError("call_at needs a time before the year 2200; for what is never to happen, set no timer")
        return self.timers.set(when, callback)

    def read_header(self, instance: InstanceStorageInfo) -> Dataset:
        from pydicom import dcmread

        try:
            with self._storage.read(instance.storage_key) as file:
                return dcmread(file, stop_before_pixels=True)
        except StoredObjectMissing as failure:
            raise Unprocessable(str(failure)) from None
        except OSError as failure:
            raise Unreadable(instance, failure) from failure
        except Exception as failure:  # noqa: BLE001 - pydicom raises many kinds for bytes that are no data set
            raise Unprocessable(f"its header cannot be parsed ({describe_failure(failure)})") from None

    def _current(self) -> Turn:
        if self._turn is None:
            raise RuntimeError("a processor may only act within a turn: in handle_instance or in a timer's callback")
        return self._turn


def find_job(ledger: Ledger, ae_title: str, job_id: str) -> Job | None:
    """The job with this id, if it is of this AE title."""
    with ledger.read() as transaction:
        row = jobs.get(transaction, job_id)
    return row.job if row is not None and row.job.ae_title == ae_title else None
