"""`JobProcessorBase`: groups received instances and submits the groups as jobs.

Each AE title has one processor, and one *lane* that calls it. The processor's methods and timers are called one at a
time and need no lock. Each call is a *turn*, and **a turn is a transaction**: its jobs and releases are committed when
the call returns. If the call raises, nothing is committed: the adapter constructs a new processor and delivers all
pending instances again, in the order of arrival and with their original `received_at`. The same happens after a
restart. A processor therefore keeps its state in plain attributes and does not need to store the state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

from dicom_adapter.api.declare import set_settings_type
from dicom_adapter.api.values import AssociationReport, InstanceStorageInfo, Job, JobPriority, JobRequest, Waiting

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SettingsT = TypeVar("SettingsT")
MAX_GROUPS = 1_000_000  # number of groups that are taken from `waiting`: a generator may be infinite


class Timer(Protocol):
    """A callback that `call_at` has scheduled."""

    def cancel(self) -> None:
        """Cancel the callback. Idempotent; without effect once the callback was called."""


class ProcessorContext(Protocol):
    """The services of the host for one processor. Plugin authors use them through `JobProcessorBase`."""

    @property
    def ae_title(self) -> str: ...

    @property
    def data_folder(self) -> Path: ...

    def now(self) -> datetime: ...

    def submit(self, request: JobRequest) -> Job: ...

    def remove(self, instances: Iterable[InstanceStorageInfo]) -> None: ...

    def record(self, event: str, instances: Iterable[InstanceStorageInfo], reason: str) -> None: ...

    def find_job(self, job_id: str) -> Job | None: ...

    def call_at(self, when: datetime, callback: Callable[[], None]) -> Timer: ...

    def read_header(self, instance: InstanceStorageInfo) -> Dataset: ...

    def read_texts(self, instance: InstanceStorageInfo, keywords: Iterable[str]) -> Mapping[str, str]: ...


class JobProcessorBase(ABC, Generic[SettingsT]):
    """Base class of all job processors.

    Life cycle: constructor (without side effects), `open`, then turns (`handle_instance`, timers and, if overridden,
    `association_changed`, `end_wait`, `job_changed` and `free_space`), `close`. When a turn raises, the processor is
    closed and replaced by a new one. Code outside of the lane reaches the processor through its `LaneHandle`.
    """

    name: ClassVar[str]  # value of `processor` in [ae-titles.<AE title>] that selects this class
    settings_type: ClassVar[type]  # settings class, from the class argument: `class Mine(JobProcessorBase[MySettings])`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        set_settings_type(cls, JobProcessorBase)

    def __init__(self, settings: SettingsT, context: ProcessorContext) -> None:
        self.settings = settings
        self.context = context

    @classmethod
    def describe(cls, settings: SettingsT) -> str:  # noqa: ARG003 - for subclasses
        """Return one line that explains these settings to operators; `check` and the log show the line."""
        return ""

    @classmethod
    def notices(cls, settings: SettingsT) -> Sequence[str]:  # noqa: ARG003 - for subclasses
        """Return what may surprise operators in these settings, such as the effect of a default; one line each.

        `check` and the log show each notice.
        """
        return ()

    @classmethod
    def listening_addresses(cls, settings: SettingsT) -> Sequence[tuple[str, int]]:  # noqa: ARG003 - for subclasses
        """Return the addresses on which servers of the plugin listen if an AE title has these settings.

        Each is an IP address and a port. `check` tries to listen on them. The hook `dicom_adapter_servers` provides the
        servers.
        """
        return ()

    def open(self) -> None:
        """Prepare for the first turn. The host calls this method on the lane, outside of a turn."""

    @property
    def ae_title(self) -> str:
        """The called AE title whose instances this processor handles, without padding."""
        return self.context.ae_title

    @abstractmethod
    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        """Handle one received instance.

        The host calls this method once for each instance in the order of arrival, and again for all pending instances
        after a restart or a failed turn.

        With `overwrite-same-instance = true` a duplicate of a pending SOP instance may arrive, with another data set.
        The duplicate has its own `instance_id` and supersedes the earlier instance.

        Raise `Unprocessable` to quarantine the instance. The turn is discarded but the processor is kept, so raise the
        error before changing any attribute.
        """

    def association_changed(self, association: AssociationReport) -> None:
        """React to the end of an association, or to failed C-STOREs: instances of its studies may be missing.

        The host calls this method as a separate turn, after `handle_instance` for all instances of the association that
        were stored before the report. While the association is open, there is one report for each study with a failure,
        at the first failure. The last report, at the end of the association, contains all failures. After a restart or
        a failed turn, the reports that concern pending instances are delivered again, each after the same instances as
        before.
        """

    def end_wait(self, study_instance_uids: Collection[str]) -> None:
        """Stop waiting for further instances of these studies: an operator does not expect them any more.

        The host calls this method as a separate turn. After a restart or a failed turn, it repeats the call, as for
        `association_changed`.
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
        """Submit one job, committed with this turn. The instances must be pending at this AE title.

        `metadata` is sent to the platform with the job, after the keys `Source` and `Instances`, which the host adds.
        If instances may be missing, set the key `Interrupted` (the constant `INTERRUPTED`) to a text about what is
        missing; operators see the text, too. `submitter` is the name of a [submitters.<name>] table and defaults to the
        submitter of the AE title. `job_id` has 32 lower-case hexadecimal digits and is random by default. To avoid
        submitting the same job twice, compute `job_id` from what identifies the job, such as study and pipeline: the
        turn fails with Refused if a job with this `job_id` already exists. Raises Refused if the submitter does not
        exist.
        """
        request = JobRequest(
            name=job_name,
            pipeline_id=pipeline_id,
            priority=priority,
            instances=tuple(instances),
            metadata=metadata or {},
            submitter=submitter,
            job_id=job_id,
        )
        return self.context.submit(request)

    def find_job(self, job_id: str) -> Job | None:
        """Return a job of this AE title in its current state, or None if its record does not exist or has expired."""
        return self.context.find_job(job_id)

    def remove_instances(self, instances: Iterable[InstanceStorageInfo]) -> None:
        """Release `instances`, which this processor does not need any longer. The release is committed with this turn.

        Released instances are not delivered again. Their stored objects are kept while unfinished jobs refer to them.
        """
        self.context.remove(instances)

    def record(self, event: str, instances: Iterable[InstanceStorageInfo], reason: str) -> None:
        """Record an event of `instances`, such as "evicted", with its reason; the command `explain` shows both.

        The record is committed with this turn. `event` and `reason` must not contain patient data.
        """
        self.context.record(event, instances, reason)

    def now(self) -> datetime:
        """Return the time of this turn in UTC: the instance's `received_at`, or the time that the timer was set for.

        This is not the wall clock, so that a turn that is repeated after a restart makes the same decision. `open` is
        not a turn: in `open`, `now` returns the time of the call of `open`.
        """
        return self.context.now()

    def call_at(self, when: datetime, callback: Callable[[], None]) -> Timer:
        """Schedule `callback` as a separate turn at the time `when` (with a time zone), or soon after that time."""
        return self.context.call_at(when, callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Schedule `callback` as a separate turn, `delay` seconds after the time of this turn."""
        return self.context.call_at(self.now() + timedelta(seconds=delay), callback)

    def read_header(self, instance: InstanceStorageInfo) -> Dataset:
        """Read the data set of a stored instance up to its pixel data: (7FE0,0008), (7FE0,0009) or (7FE0,0010).

        The data set contains patient data: keep its values out of logs and labels. Raises Unprocessable if the stored
        object is missing or cannot be parsed. If the storage fails, the adapter repeats the turn.
        """
        return self.context.read_header(instance)

    def read_texts(self, instance: InstanceStorageInfo, keywords: Iterable[str]) -> Mapping[str, str]:
        """Read the values of some attributes with text values, by keyword. Much faster than `read_header`.

        Return "" for a missing value, and for a value of more than 64 KiB, with a warning in the log (`text_omitted`).
        Multiple values are separated by backslashes. The texts are patient data. Raises the same errors as
        `read_header`, and ValueError for a keyword of an attribute without a text value.
        """
        return self.context.read_texts(instance, keywords)

    @property
    def data_folder(self) -> Path:
        """An existing folder that only this processor uses, for data that the processor can rebuild."""
        return self.context.data_folder

    def job_changed(self, job: Job) -> None:
        """React to a state change of a job of this AE title. The call is a separate turn after the change is committed.

        The host does not call this method for changes while the processor does not run, such as during a restart: use
        `find_job` for those jobs.
        """

    def free_space(self, wanted_bytes: int) -> None:
        """Release instances of `wanted_bytes` in total, if possible: the storage backend is nearly full.

        The host calls this method as a separate turn every ten seconds until there is enough free space. Associations
        are rejected when the free space falls below `[storage] reserve`.
        """

    def waiting(self) -> Iterable[Waiting]:
        """Return the waiting groups, for operators. Must be fast: the host calls it on the lane, between turns."""
        return ()

    def waiting_soonest(self, limit: int) -> tuple[int, Sequence[Waiting]]:
        """Return the number of waiting groups, and at most `limit` of them: those that operators see.

        Groups with a problem come first, then those that are due first. The default calls `waiting`. Override this
        method if `waiting` is slow for thousands of groups: the host calls it twice a second, between turns.
        """
        groups = list(islice(self.waiting(), MAX_GROUPS))
        return len(groups), nsmallest(limit, groups, key=_urgency)

    def close(self) -> None:
        """Release everything that `open` acquired. Called also if `open` has raised."""


def _urgency(group: Waiting) -> tuple[bool, bool, datetime | None]:
    return not group.problem, group.until is None, group.until
