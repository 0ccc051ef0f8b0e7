"""A platform in memory, and the submitter that submits jobs to this platform."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from functools import partial
from io import BytesIO
from typing import Any, ClassVar

from attrs import define, evolve, field, frozen

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import Permanent
from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.api.settings import setting
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.submitter import AttachmentUpload, Output, Submitter, SubmitterContext, Upload
from dicom_adapter.api.values import Job, PlatformJob, PlatformStatus
from dicom_adapter.simulation.memory import MemoryStorage, memory_storage

# Methods of a submitter that can fail on request
CALLS = ("create_job", "add_metadata", "upload", "attach", "start", "status", "cancel", "results", "clean_up")


@frozen(kw_only=True)
class ReceivedJob:
    """One job as the platform has received it."""

    job: Job  # the argument of `create_job`
    metadata: Mapping[str, str] = field(factory=dict, repr=False)
    files: Mapping[int, bytes] = field(factory=dict, repr=False)  # Part 10 files by their 0-based position in the job
    attachments: Mapping[str, bytes] = field(factory=dict, repr=False)  # by the name of the file
    started: bool = False
    cancelled: bool = False
    succeeded: bool | None = None  # None: the job has not ended
    detail: str = ""  # explanation of its end
    outputs: Mapping[str, bytes] = field(factory=dict, repr=False)  # what the job has produced, by name
    cleaned_up: bool = False


@define
class _Fault:
    call: str  # one of CALLS
    error: Exception
    times: int  # number of calls that will still fail
    pipeline_id: str | None  # None: jobs of all pipelines


class Platform:
    """A platform in memory, which keeps everything that it receives, and fails on request. Thread-safe.

    Its methods are idempotent.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, ReceivedJob] = {}  # received jobs by run id: the job id, if the job was not run again
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()

    def fail(self, call: str, error: Exception, times: int = 1, *, pipeline_id: str | None = None) -> None:
        """Let the next `times` calls of a submitter method, for example "upload", raise `error`.

        With `pipeline_id`, only calls for jobs of this pipeline fail.
        """
        if call not in CALLS:
            raise ValueError(f"a submitter has no call {call!r}; it has {', '.join(CALLS)}")
        self._faults.append(_Fault(call, error, times, pipeline_id))

    def end(
        self, job: Job, *, succeeded: bool = True, detail: str = "", outputs: Mapping[str, bytes] | None = None
    ) -> None:
        """Let the last run of a job of `memory-followed` end."""
        with self._lock:
            received = self._get(job)
            self.jobs[job.run_id] = evolve(received, succeeded=succeeded, detail=detail, outputs=outputs or {})

    def create(self, job: Job) -> None:
        with self._lock:
            self._raise_fault("create_job", job)
            self.jobs.setdefault(job.run_id, ReceivedJob(job=job))

    def find(self, job: Job, call: str) -> ReceivedJob:
        """Return the job. Raises Permanent if the job was never created."""
        with self._lock:
            self._raise_fault(call, job)
            return self._get(job)

    def change(self, job: Job, call: str, **changes: Any) -> None:
        """Change the job. Raises Permanent if the job was never created, or was cancelled before `start`."""
        with self._lock:
            self._raise_fault(call, job)
            received = self._get(job)
            if call == "start" and received.cancelled:
                raise Permanent(f"job {job.job_id}: it was cancelled")
            self.jobs[job.run_id] = evolve(received, **changes)

    def receive(self, job: Job, position: int, file: bytes) -> None:
        with self._lock:
            received = self._get(job)
            self.jobs[job.run_id] = evolve(received, files={**received.files, position: file})

    def receive_attachment(self, job: Job, name: str, file: bytes) -> None:
        with self._lock:
            received = self._get(job)
            self.jobs[job.run_id] = evolve(received, attachments={**received.attachments, name: file})

    def _get(self, job: Job) -> ReceivedJob:
        received = self.jobs.get(job.run_id)
        if received is None:
            raise Permanent(f"job {job.job_id}: it does not exist on the platform")
        return received

    def _raise_fault(self, call: str, job: Job) -> None:
        for fault in self._faults:
            if fault.call == call and fault.pipeline_id in (None, job.pipeline_id) and fault.times > 0:
                fault.times -= 1
                raise fault.error


@frozen(kw_only=True)
class MemorySettings:
    """The [submitters.<name>] table of `type = "memory"` or `"memory-followed"`."""

    ae_title: str | None = setting(default=None, help="AE title of the DICOM node that the platform stands for.")
    attachments: bool = setting(default=False, help="If true, the platform takes attachments.")


class MemorySubmitter(Submitter[MemorySettings]):
    """Base class of the submitter that `MemoryPlugin` provides."""

    name = "memory"
    platform: ClassVar[Platform]

    def __init__(self, settings: MemorySettings, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        self.node_ae_title = settings.ae_title
        self.takes_attachments = settings.attachments

    def create_job(self, job: Job) -> PlatformJob:
        self.platform.create(job)
        return PlatformJob(job_id=job.job_id)

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        self.platform.change(job, "add_metadata", metadata=dict(metadata))

    def upload(self, job: Job, upload: Upload) -> None:
        self.platform.find(job, "upload")
        with upload.open() as source:
            self.platform.receive(job, upload.position, source.read())

    def attach(self, job: Job, attachment: AttachmentUpload) -> None:
        self.platform.find(job, "attach")
        with attachment.open() as source:
            self.platform.receive_attachment(job, attachment.file_name, source.read())

    def start(self, job: Job) -> None:
        self.platform.change(job, "start", started=True)

    def status(self, job: Job) -> PlatformStatus:
        received = self.platform.find(job, "status")
        state = "cancelled" if received.cancelled else "running" if received.started else "pending"
        return PlatformStatus(state=state, finished=received.cancelled)

    def cancel(self, job: Job) -> None:
        if job.run_id in self.platform.jobs:
            self.platform.change(job, "cancel", cancelled=True)


class FollowedMemorySubmitter(MemorySubmitter):
    """Base class of the submitter `memory-followed`, whose jobs end when `Platform.end` is called."""

    name = "memory-followed"
    follows_jobs = True

    def status(self, job: Job) -> PlatformStatus:
        received = self.platform.find(job, "status")
        succeeded = False if received.cancelled else received.succeeded
        if succeeded is None:
            return PlatformStatus(state="running" if received.started else "pending", finished=False)
        state = "cancelled" if received.cancelled else "succeeded" if succeeded else "failed"
        return PlatformStatus(state=state, finished=True, succeeded=succeeded, detail=received.detail)

    def results(self, job: Job) -> Iterable[Output]:
        outputs = self.platform.find(job, "results").outputs
        return [Output(name=name, open=partial(BytesIO, content)) for name, content in outputs.items()]

    def clean_up(self, job: Job) -> None:
        if job.run_id in self.platform.jobs:
            self.platform.change(job, "clean_up", cleaned_up=True)


class MemoryPlugin:
    """A plugin with the submitters and the storage backend in memory of one simulated adapter."""

    def __init__(self) -> None:
        self.platform = platform = Platform()
        self.storage: type[MemoryStorage] = memory_storage()

        class ToPlatform(MemorySubmitter):
            pass

        class FollowedToPlatform(FollowedMemorySubmitter):
            pass

        ToPlatform.platform = FollowedToPlatform.platform = platform
        self.submitter = ToPlatform
        self.followed = FollowedToPlatform

    @hookimpl
    def dicom_adapter_submitters(self) -> Iterable[type[Submitter[MemorySettings]]]:
        return [self.submitter, self.followed]

    @hookimpl
    def dicom_adapter_storage_backends(self) -> Iterable[type[StorageBackend[NoSettings]]]:
        return [self.storage]
