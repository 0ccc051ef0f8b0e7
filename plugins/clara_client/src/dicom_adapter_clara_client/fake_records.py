"""Records of the fake platform: its jobs and calls, kept in memory. `fake_folder` keeps them on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from attrs import evolve, field, frozen

from dicom_adapter import JobPriority


class SubmitterCall(str, Enum):
    """Call of a submitter."""

    CREATE = "create"
    ADD_METADATA = "add-metadata"
    UPLOAD = "upload"
    START = "start"
    STATUS = "status"
    CANCEL = "cancel"
    RESULTS = "results"
    CLEAN_UP = "clean-up"


class FakeOutcome(str, Enum):
    """Outcome of a call."""

    DONE = "done"
    UNCHANGED = "unchanged"  # a repeated call without effect
    RETRIABLE = "retriable"
    PERMANENT = "permanent"
    BUG = "bug"


class FakeState(str, Enum):
    """State of a job on the fake platform."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"


@frozen(kw_only=True)
class FakeInstance:
    """One uploaded instance."""

    position: int  # 0-based position in the job
    sop_instance_uid: str
    size_bytes: int
    data: bytes | None = field(default=None, repr=False)  # the Part 10 file; None if it is in a folder


@frozen(kw_only=True)
class FakeJob:
    """One job of the fake platform."""

    job_id: str  # `Job.run_id` of the adapter
    name: str
    ae_title: str
    pipeline_id: str
    priority: JobPriority
    submitter: str
    metadata: Mapping[str, str] = field(factory=dict, repr=False)  # may contain DICOM values
    state: FakeState = FakeState.PENDING
    created_at: datetime  # UTC; on the fake platform
    started_at: datetime | None = None  # UTC
    starts: int = 0  # number of starts; more than one is a bug
    succeeded: bool | None = None  # how the job has ended; None if it has not ended, or was cancelled
    instances: tuple[FakeInstance, ...] = ()  # by position

    @property
    def started(self) -> bool:
        return self.starts > 0


@frozen(kw_only=True)
class FakeCall:
    """One call and its outcome."""

    time: datetime  # UTC; of the outcome
    call: SubmitterCall
    job_id: str  # `Job.run_id` of the adapter
    outcome: FakeOutcome
    position: int | None = None  # of an upload


@frozen(kw_only=True)
class FakeUpload:
    """Received upload: its bytes, or the file that contains them."""

    size_bytes: int
    data: bytes | None = field(default=None, repr=False)
    path: Path | None = None


def by_position(instances: Iterable[FakeInstance]) -> tuple[FakeInstance, ...]:
    """Return instances sorted by position; of several instances with the same position, only the last."""
    unique = {instance.position: instance for instance in instances}
    return tuple(unique[position] for position in sorted(unique))


class FakeRecords(ABC):
    """Records of the fake platform. Only `receive_upload` is thread-safe; the caller serializes all other methods."""

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def state(self, job_id: str) -> FakeState | None:
        """Return the state of a job without reading its instances; None if the job does not exist."""

    @abstractmethod
    def has(self, job_id: str, position: int) -> bool: ...

    @abstractmethod
    def receive_upload(self, job_id: str, source: BinaryIO) -> FakeUpload:
        """Read `source`; the upload belongs to the job only after `add`."""

    @abstractmethod
    def add(self, job_id: str, position: int, sop_instance_uid: str, upload: FakeUpload) -> None: ...

    @abstractmethod
    def open_first(self, job_id: str) -> BinaryIO | None:
        """Open the instance at position 0; return None if there is none."""

    @abstractmethod
    def add_output(self, job_id: str, name: str, source: BinaryIO) -> None:
        """Keep an output of the job, in place of an output of the same name. `name` is a relative path."""

    @abstractmethod
    def outputs(self, job_id: str) -> dict[str, Callable[[], BinaryIO]]:
        """Return the kept outputs by name, each with a function that opens it."""

    @abstractmethod
    def delete_outputs(self, job_id: str) -> None: ...

    @abstractmethod
    def save(self, job: FakeJob) -> None: ...

    @abstractmethod
    def jobs(self) -> dict[str, FakeJob]: ...

    @abstractmethod
    def job(self, job_id: str) -> FakeJob: ...

    @abstractmethod
    def log(self, call: FakeCall) -> None: ...

    @abstractmethod
    def calls(self) -> list[FakeCall]: ...


class MemoryRecords(FakeRecords):
    """Records in memory, instances included, for tests."""

    def __init__(self) -> None:
        self._jobs: dict[str, FakeJob] = {}
        self._calls: list[FakeCall] = []
        self._outputs: dict[str, dict[str, bytes]] = {}

    def open(self) -> None:
        pass

    def state(self, job_id: str) -> FakeState | None:
        job = self._jobs.get(job_id)
        return None if job is None else job.state

    def has(self, job_id: str, position: int) -> bool:
        return any(instance.position == position for instance in self._jobs[job_id].instances)

    def receive_upload(self, job_id: str, source: BinaryIO) -> FakeUpload:  # noqa: ARG002 - a folder needs the job's id
        data = source.read()
        return FakeUpload(size_bytes=len(data), data=data)

    def add(self, job_id: str, position: int, sop_instance_uid: str, upload: FakeUpload) -> None:
        instance = FakeInstance(
            position=position, sop_instance_uid=sop_instance_uid, size_bytes=upload.size_bytes, data=upload.data
        )
        job = self._jobs[job_id]
        self._jobs[job_id] = evolve(job, instances=by_position([*job.instances, instance]))

    def open_first(self, job_id: str) -> BinaryIO | None:
        return next((BytesIO(item.data or b"") for item in self._jobs[job_id].instances if item.position == 0), None)

    def add_output(self, job_id: str, name: str, source: BinaryIO) -> None:
        self._outputs.setdefault(job_id, {})[name] = source.read()

    def outputs(self, job_id: str) -> dict[str, Callable[[], BinaryIO]]:
        return {name: partial(BytesIO, data) for name, data in self._outputs.get(job_id, {}).items()}

    def delete_outputs(self, job_id: str) -> None:
        self._outputs.pop(job_id, None)

    def save(self, job: FakeJob) -> None:
        self._jobs[job.job_id] = job

    def jobs(self) -> dict[str, FakeJob]:
        return dict(self._jobs)

    def job(self, job_id: str) -> FakeJob:
        return self._jobs[job_id]

    def log(self, call: FakeCall) -> None:
        self._calls.append(call)

    def calls(self) -> list[FakeCall]:
        return list(self._calls)
