"""A recording host with virtual time: it runs instances and timers in the order of their times.

It keeps the host's guarantees: a turn is a transaction, an instance comes before a timer of the same time, and only
pending instances can be submitted or removed. Tests see what was committed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
from pydicom.dataset import Dataset

from dicom_adapter import (
    InstanceStorageInfo,
    Job,
    JobPriority,
    JobProcessorBase,
    JobRequest,
    PipelineReference,
    Unprocessable,
)
from dicom_adapter_aetitle.processor import AeTitleJobProcessor
from dicom_adapter_aetitle.settings import AeTitleSettings

START = datetime(2024, 3, 1, 8, 0, 0, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@attrs.frozen
class Submitted:
    """The arguments with which the processor submitted a job, and the time."""

    name: str
    pipeline_id: str
    priority: JobPriority
    instances: tuple[InstanceStorageInfo, ...]
    at: float  # seconds of virtual time
    submitter: str | None = None  # None: the submitter of the AE title

    @property
    def studies(self) -> list[str]:
        return list(dict.fromkeys(instance.study_instance_uid for instance in self.instances))


def pipelines(ids: Mapping[str, str | PipelineReference]) -> dict[str, PipelineReference]:
    """Return pipelines as the core converts them, from ids by name."""
    return {name: PipelineReference(id=one) if isinstance(one, str) else one for name, one in ids.items()}


def _converted(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | ({"pipelines": pipelines(settings["pipelines"])} if "pipelines" in settings else {})


@attrs.define(eq=False)
class RecordedTimer:
    when: datetime
    callback: Callable[[], None]
    live: bool = True

    def cancel(self) -> None:
        self.live = False


class Lane:
    """Stand-in for the host's lane: the context that the processor calls, and the turns that call the processor."""

    def __init__(
        self,
        *,
        headers: Mapping[int, Dataset] | None = None,
        failing_submissions: Iterable[int] = (),
        **settings: Any,
    ) -> None:
        self.ae_title = "LUNG"
        self.data_folder = Path("unused")
        self.headers = dict(headers or {})  # what `read_header` returns, by instance_id
        self.jobs: list[Submitted] = []
        self.removed: list[InstanceStorageInfo] = []
        self.pending: dict[str, InstanceStorageInfo] = {}  # by SOP instance UID: a newer one replaces the older
        self.quarantined: list[str] = []  # the reasons
        self.timers: list[RecordedTimer] = []
        self.timers_made = 0
        self.headers_read = 0
        self.failing_submissions = set(failing_submissions)  # numbers of calls of `submit` that raise
        self._submissions = itertools.count(1)
        self._now = START
        self._turn_jobs: list[Submitted] = []
        self._turn_removed: list[InstanceStorageInfo] = []
        self.settings = AeTitleSettings(**({"pipelines": pipelines({"lung": "p-lung"})} | _converted(settings)))
        self.processor: JobProcessorBase[Any] = AeTitleJobProcessor(self.settings, self)
        self.processor.open()

    # --- called by the processor

    def now(self) -> datetime:
        return self._now

    def submit(self, request: JobRequest) -> Job:
        assert request.job_id is None  # the processor lets the host choose
        if next(self._submissions) in self.failing_submissions:
            raise RuntimeError("the turn fails here")
        used = self._only_pending(request.instances)
        seconds = (self._now - START).total_seconds()
        self._turn_jobs.append(
            Submitted(request.name, request.pipeline_id, request.priority, used, seconds, request.submitter)
        )
        return Job(
            job_id="0" * 32,
            name=request.name,
            ae_title=self.ae_title,
            pipeline_id=request.pipeline_id,
            priority=request.priority,
            submitter="memory",
            instance_count=len(used),
            metadata=request.metadata,
            created_at=self._now,
            changed_at=self._now,
        )

    def remove(self, instances: Iterable[InstanceStorageInfo]) -> None:
        self._turn_removed += self._only_pending(instances)

    def call_at(self, when: datetime, callback: Callable[[], None]) -> RecordedTimer:
        timer = RecordedTimer(when, callback)
        self.timers.append(timer)
        self.timers_made += 1
        return timer

    def read_header(self, instance: InstanceStorageInfo) -> Dataset:
        self.headers_read += 1
        return self.headers[instance.instance_id]

    def read_texts(self, instance: InstanceStorageInfo, keywords: Iterable[str]) -> dict[str, str]:
        raise NotImplementedError

    # --- called by the tests

    def arrive(self, *instances: InstanceStorageInfo) -> None:
        """Deliver `instances` at their own times; earlier timers have their turns first."""
        for instance in instances:
            self._run_timers(lambda timer, at=instance.received_at: timer.when < at)
            self.deliver(instance)

    def deliver(self, instance: InstanceStorageInfo) -> None:
        """Run one turn with `instance`, even if a timer was due earlier."""
        self._now = instance.received_at
        self.pending[instance.sop_instance_uid] = instance
        try:
            self._turn(lambda: self.processor.handle_instance(instance))
        except Unprocessable as refusal:
            del self.pending[instance.sop_instance_uid]
            self.quarantined.append(str(refusal))

    def run_until(self, seconds: float) -> None:
        """Advance virtual time up to and including `seconds`."""
        self._run_timers(lambda timer: timer.when <= at(seconds))

    def run_all_timers(self) -> None:
        """Advance virtual time until all timers have run."""
        self._run_timers(lambda timer: True)

    def restarted(self) -> Lane:
        """Return a new lane with a new processor. The caller delivers the pending instances again."""
        self.processor.close()
        return Lane(headers=self.headers, **attrs.asdict(self.settings, recurse=False))

    def _run_timers(self, is_due: Callable[[RecordedTimer], bool]) -> None:
        while due := [timer for timer in self.timers if timer.live and is_due(timer)]:
            timer = min(due, key=lambda timer: timer.when)
            timer.live = False
            self._now = max(self._now, timer.when)
            self._turn(timer.callback)

    def _turn(self, call: Callable[[], None]) -> None:
        self._turn_jobs, self._turn_removed = [], []
        call()
        self.jobs += self._turn_jobs
        self.removed += self._turn_removed
        for instance in self._turn_removed:
            del self.pending[instance.sop_instance_uid]
        self.timers = [timer for timer in self.timers if timer.live]

    def _only_pending(self, instances: Iterable[InstanceStorageInfo]) -> tuple[InstanceStorageInfo, ...]:
        used = tuple(instances)
        pending = {instance.instance_id for instance in self.pending.values()}
        assert {instance.instance_id for instance in used} <= pending, "only pending instances can be used"
        return used


class Modality:
    """Factory of instances, numbered in order of creation."""

    def __init__(self) -> None:
        self._numbers: Iterator[int] = itertools.count(1)

    def __call__(self, seconds: float, study: str = "1.2.3", **changes: Any) -> InstanceStorageInfo:
        number = next(self._numbers)
        values: dict[str, Any] = {
            "instance_id": number,
            "ae_title": "LUNG",
            "calling_ae_title": "CT1",
            "peer_address": "192.0.2.7",
            "association_id": "a1",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "sop_instance_uid": f"1.9.{number}",
            "study_instance_uid": study,
            "series_instance_uid": f"{study}.1",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "patient_id": "PID-4711",
            "issuer_of_patient_id": "",
            "received_at": at(seconds),
            "storage_key": f"k{number}",
            "size_bytes": 1024,
            "checksum": number,
        }
        return InstanceStorageInfo(**(values | changes))


# These fixtures return classes, so that every example of a property test can create a new object.


@pytest.fixture(scope="session")
def new_lane() -> type[Lane]:
    return Lane


@pytest.fixture(scope="session")
def new_modality() -> type[Modality]:
    return Modality


@pytest.fixture
def instance() -> Modality:
    """`instance(seconds, study="1.2.3", **fields)`: an instance received that many seconds after the start."""
    return Modality()
