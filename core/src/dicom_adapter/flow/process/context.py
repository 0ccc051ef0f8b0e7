"""Step 4 (`process`) of the flow: the services of a lane for its processor: turns, timers and headers of instances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import structlog

from dicom_adapter.api.errors import NO_RESOURCES_TEXT, StoredObjectMissing, Unprocessable, reports_no_resources
from dicom_adapter.api.processor import Timer
from dicom_adapter.api.values import InstanceStorageInfo, Job, JobRequest
from dicom_adapter.dicom.identity import UnreadableDataSet
from dicom_adapter.flow.process.settings import LaneSettings
from dicom_adapter.flow.process.timers import LATEST_TIMER, Timers
from dicom_adapter.flow.process.turn import Turn, Unavailable, Unreadable
from dicom_adapter.ledger import Ledger, jobs
from dicom_adapter.runtime.resources import Resources

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = structlog.get_logger("dicom_adapter.process")

T = TypeVar("T")


class Context:
    """The services of a lane for its processor (see `api.processor.ProcessorContext`)."""

    def __init__(self, settings: LaneSettings, resources: Resources) -> None:
        self.ae_title = settings.ae_title
        self.timers = Timers()
        self.opening_at: datetime | None = None  # the time that the processor sees in `open`
        self._settings = settings
        self._find_problem = resources.problem
        self._storage = resources.storage
        self._ledger = resources.ledger
        self._clock = resources.clock
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
        return self._settings.ensure_data_folder(self._find_problem)

    def now(self) -> datetime:
        return self.opening_at or self._current_turn().now

    def submit(self, request: JobRequest) -> Job:
        return self._current_turn().submit(request)

    def remove(self, instances: Iterable[InstanceStorageInfo]) -> None:
        self._current_turn().remove(instances)

    def record(self, event: str, instances: Iterable[InstanceStorageInfo], reason: str) -> None:
        self._current_turn().note(event, instances, reason)

    def find_job(self, job_id: str) -> Job | None:
        return find_job(self._ledger, self.ae_title, job_id)

    def call_at(self, when: datetime, callback: Callable[[], None]) -> Timer:
        if when.utcoffset() is None:
            raise ValueError("call_at needs a time with a time zone, for example self.now() + timedelta(seconds=5)")
        if when > LATEST_TIMER:
            raise ValueError("call_at needs a time before the year 2200; set no timer for an event that never happens")
        return self.timers.set(when, self._due(when), partial(self._settings.processor.caller, "timer", callback))

    def _due(self, when: datetime) -> datetime:
        """Return when a timer is due: at `when`, or when the wait that the processor requested is over, if earlier.

        The two times differ if the time of the turn is in the future, because the clock was put back after the instance
        was received.
        """
        now = self._clock.now()
        seen = self.opening_at or (now if self._turn is None else self._turn.now)
        return min(when, now + max(when - seen, timedelta(0)))

    def read_header(self, instance: InstanceStorageInfo) -> Dataset:
        from dicom_adapter.dicom.headers import read_header

        return self._read(instance, read_header)

    def read_texts(self, instance: InstanceStorageInfo, keywords: Iterable[str]) -> Mapping[str, str]:
        from dicom_adapter.dicom.texts import read_texts

        def warn(keyword: str, reason: str) -> None:
            log.warning(
                "text_omitted",
                ae_title=self.ae_title,
                instance_id=instance.instance_id,
                attribute=keyword,
                reason=reason,
            )

        return self._read(instance, lambda file: read_texts(file, instance.transfer_syntax_uid, keywords, warn))

    def _read(self, instance: InstanceStorageInfo, read: Callable[[BinaryIO], T]) -> T:
        try:
            with self._storage.read(instance.storage_key) as file:
                return read(file)
        except (StoredObjectMissing, UnreadableDataSet) as failure:
            raise Unprocessable(str(failure)) from None
        except OSError as failure:
            if reports_no_resources(failure):
                raise Unavailable(NO_RESOURCES_TEXT) from failure
            raise Unreadable(instance, failure) from failure

    def _current_turn(self) -> Turn:
        if self._turn is None:
            raise RuntimeError(
                "a processor may do this only within a turn: in a method that the lane calls, for example "
                "handle_instance, in a timer's callback, or in a request"
            )
        return self._turn


def find_job(ledger: Ledger, ae_title: str, job_id: str) -> Job | None:
    """Return the job with this id if it belongs to this AE title, otherwise None."""
    with ledger.read() as transaction:
        row = jobs.get(transaction, job_id)
    return row.job if row is not None and row.job.ae_title == ae_title else None
