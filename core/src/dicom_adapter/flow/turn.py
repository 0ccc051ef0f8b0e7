"""Part of step 4: what a lane offers to its processor: turns, timers, and the headers of stored instances.

A `Turn` only records. `Turn.commit` writes all of it in one transaction, or raises and nothing has happened.
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from attrs import Factory, define, evolve, field, frozen

from dicom_adapter.errors import DicomAdapterError, Refused, StoredObjectMissing, Unprocessable, describe_failure
from dicom_adapter.ledger import Transaction, events, instances, jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.model import InstanceStorageInfo, Job, JobPriority
from dicom_adapter.processor import JobProcessorBase, Timer
from dicom_adapter.storage import StorageBackend

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

LATEST_TIMER = datetime(2200, 1, 1, tzinfo=timezone.utc)  # no thread can be told to wait longer than 292 years


@frozen(kw_only=True)
class LaneSettings:
    """What a lane works with."""

    ae_title: str
    processor: type[JobProcessorBase[Any]]
    settings: Any
    submitter: str
    data_folder: Path


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


@define
class Turn:
    """One call of a processor: the time that it sees, and what it asks for."""

    ae_title: str
    source: str  # the metadata `Source` of its jobs
    submitter: str
    now: datetime
    submissions: list[tuple[Job, tuple[int, ...]]] = Factory(list)
    removed: list[int] = Factory(list)

    def submit(
        self,
        name: str,
        pipeline_id: str,
        priority: JobPriority,
        taken: Iterable[InstanceStorageInfo],
        metadata: Mapping[str, str],
    ) -> Job:
        """Record the wish for a job. Raises Refused for what can never be a job."""
        numbers = tuple(instance.instance_id for instance in self._own(taken))
        if not name or not pipeline_id:
            raise Refused("a job needs a name and a pipeline id")
        if not numbers:
            raise Refused(f"job '{name}' has no instances")
        job = Job(
            job_id=uuid4().hex,
            name=name,
            ae_title=self.ae_title,
            pipeline_id=pipeline_id,
            priority=JobPriority(priority),
            submitter=self.submitter,
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
        submitted = tuple(_enter(transaction, job, numbers, meaning) for job, numbers in self.submissions)
        released = tuple(dict.fromkeys(meaning[number] for number in self.removed))
        instances.release(transaction, released, self.now)
        events.record(transaction, [_queued(job) for job in submitted])
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

    def __init__(self, settings: LaneSettings, storage: StorageBackend[Any]) -> None:
        self.ae_title = settings.ae_title
        self.timers = Timers()
        self._settings = settings
        self._storage = storage
        self._turn: Turn | None = None

    def begin(self, now: datetime) -> Turn:
        settings = self._settings
        source = f"{settings.ae_title} ({settings.processor.name})"
        self._turn = Turn(ae_title=self.ae_title, source=source, submitter=settings.submitter, now=now)
        return self._turn

    def end(self) -> None:
        self._turn = None

    @property
    def data_folder(self) -> Path:
        self._settings.data_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._settings.data_folder

    def now(self) -> datetime:
        return self._current().now

    def submit(
        self,
        name: str,
        pipeline_id: str,
        priority: JobPriority,
        instances: Iterable[InstanceStorageInfo],
        metadata: Mapping[str, str],
    ) -> Job:
        return self._current().submit(name, pipeline_id, priority, instances, metadata)

    def remove(self, instances: Iterable[InstanceStorageInfo]) -> None:
        self._current().remove(instances)

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
