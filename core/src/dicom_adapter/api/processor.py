"""`JobProcessorBase`: decides which received instances belong together and become jobs.

Each AE title has one processor, on one *lane*: its methods and timers are never called at the same time and need no
lock. One such call is a *turn*, and **a turn is a transaction**: what it submits and removes is committed when it
returns; when it raises, none of it happened, the processor is built anew, and all its pending instances are delivered
again, in the order of their arrival and with their original `received_at`. After a restart the same happens. So a
processor keeps its state in plain attributes, and writes no persistence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

from dicom_adapter.api.declare import settings_argument
from dicom_adapter.api.values import InstanceStorageInfo, Job, JobPriority, Waiting

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SettingsT = TypeVar("SettingsT")


class Timer(Protocol):
    """What `call_at` returns."""

    def cancel(self) -> None:
        """Never call back. Cancelling twice, or after the call, does nothing."""


class ProcessorContext(Protocol):
    """What the host gives to a processor; authors use it through `JobProcessorBase`."""

    @property
    def ae_title(self) -> str: ...

    @property
    def data_folder(self) -> Path: ...

    def now(self) -> datetime: ...

    def submit(
        self,
        name: str,
        pipeline_id: str,
        priority: JobPriority,
        instances: Iterable[InstanceStorageInfo],
        metadata: Mapping[str, str],
        submitter: str | None,
        job_id: str | None,
    ) -> Job: ...

    def remove(self, instances: Iterable[InstanceStorageInfo]) -> None: ...

    def record(self, what: str, instances: Iterable[InstanceStorageInfo], reason: str) -> None: ...

    def find_job(self, job_id: str) -> Job | None: ...

    def call_at(self, when: datetime, callback: Callable[[], None]) -> Timer: ...

    def read_header(self, instance: InstanceStorageInfo) -> Dataset: ...


class JobProcessorBase(ABC, Generic[SettingsT]):
    """The base of all job processors.

    Life cycle: constructed (no side effects), `open`, then turns (`handle_instance`, timers, and for those who define
    them `job_changed` and `make_room`), `close`. When a turn raises, the processor is closed and another one takes its
    place. Others ask a processor through its `LaneHandle`.
    """

    name: ClassVar[str]  # what `processor = "…"` in [ae-titles.<AE title>] calls it
    settings_type: ClassVar[type]  # set from the class argument: `class Mine(JobProcessorBase[MySettings])`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        settings_argument(cls, JobProcessorBase)

    def __init__(self, settings: SettingsT, context: ProcessorContext) -> None:
        self.settings = settings
        self.context = context

    @classmethod
    def describe(cls, settings: SettingsT) -> str:  # noqa: ARG003 - for subclasses
        """One line that tells an operator what these settings mean; `check` and the log show it."""
        return ""

    def open(self) -> None:
        """Prepare for the first turn. Runs on the lane."""

    @property
    def ae_title(self) -> str:
        """The called AE title that this processor works for."""
        return self.context.ae_title

    @abstractmethod
    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        """Take one instance. Called once for each arrival, in order, and again after a restart or a failed turn.

        With `overwrite-same-instance = true` a SOP instance may come again while it is pending: the newer one, with
        an `instance_id` of its own, stands for the older one from then on.

        Raise `Unprocessable` to have the instance quarantined: nothing that this turn asked for happens, but the
        processor stays as it is, so raise before changing any attribute.
        """

    def submit_pipeline_job(
        self,
        job_name: str,
        pipeline_id: str,
        priority: JobPriority,
        instances: Iterable[InstanceStorageInfo],
        *,
        metadata: Mapping[str, str] | None = None,
        submitter: str | None = None,
        job_id: str | None = None,
    ) -> Job:
        """Ask for one job, committed with this turn. The instances must be pending at this AE title.

        `metadata` goes to the platform with the job, after `Source` and `Instances`, which the host adds. `submitter`
        is the one that the AE title is configured with, unless another is named. `job_id`, 32 lower-case hexadecimal
        digits, is a random one; made of what the job is for, it keeps the job from being submitted twice. Raises
        Refused for a submitter that is not there; the turn fails with Refused when there is such a job.
        """
        return self.context.submit(job_name, pipeline_id, priority, instances, metadata or {}, submitter, job_id)

    def find_job(self, job_id: str) -> Job | None:
        """A job of this AE title as it stands now, or None: there is none, or it was finished long ago."""
        return self.context.find_job(job_id)

    def remove_instances(self, instances: Iterable[InstanceStorageInfo]) -> None:
        """Say that this processor needs `instances` no longer, committed with this turn.

        They will not be delivered again. Their files stay as long as an unfinished job needs them.
        """
        self.context.remove(instances)

    def record(self, what: str, instances: Iterable[InstanceStorageInfo], reason: str) -> None:
        """Have `explain` tell that these were `what`, such as "evicted", and why; committed with this turn.

        Neither text may hold patient data.
        """
        self.context.record(what, instances, reason)

    def now(self) -> datetime:
        """The time of this turn, in UTC: the instance's `received_at`, or the time that the timer was set for.

        Not the wall clock: so turns that are made up for after a restart decide as they would have decided then. In
        `open`, which is no turn, it is the time at which that was called.
        """
        return self.context.now()

    def call_at(self, when: datetime, callback: Callable[[], None]) -> Timer:
        """Call `callback` on this lane at `when` (UTC) or as soon after as possible, but not within this turn."""
        return self.context.call_at(when, callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on this lane `delay` seconds after the time of this turn."""
        return self.context.call_at(self.now() + timedelta(seconds=delay), callback)

    def read_header(self, instance: InstanceStorageInfo) -> Dataset:
        """The instance's data set up to its pixel data (7FE0,0008), from the storage backend.

        It may hold patient data: keep it out of logs and labels. Raises Unprocessable when it cannot be parsed.
        """
        return self.context.read_header(instance)

    @property
    def data_folder(self) -> Path:
        """A folder of this processor's own, for what it can rebuild. It exists."""
        return self.context.data_folder

    def job_changed(self, job: Job) -> None:
        """A job of this AE title changed its state. A turn of its own, after the change was committed.

        What happens while there is no processor is not told: `find_job` tells it.
        """

    def make_room(self, wanted_bytes: int) -> None:
        """The storage backend is nearly full: remove what can be spared, before associations are refused.

        A turn of its own, every ten seconds as long as it is so.
        """

    def waiting(self) -> Iterable[Waiting]:
        """What is held back at present, for operators. Called on the lane between turns; keep it cheap."""
        return ()

    def close(self) -> None:
        """Let go of everything that `open` took."""
