"""Values of the emulated platform: jobs, payloads with their files, pipelines. All times are UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any

from attrs import field, frozen

from dicom_adapter import JobPriority


class ClaraJobState(str, Enum):
    """State of a job; it only moves forward."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"


class ClaraJobStatus(str, Enum):
    """Health of a running job; for a stopped job, its result."""

    HEALTHY = "healthy"
    FAULTED = "faulted"
    CANCELED = "canceled"
    EVICTED = "evicted"
    TERMINATED = "terminated"


class PayloadType(str, Enum):
    """Origin of a payload: the platform, one for each job, or a client, for any number of jobs."""

    PIPELINE = "pipeline"
    REUSABLE = "reusable"


@frozen(kw_only=True)
class RunPlan:
    """How jobs run that are started from now on."""

    seconds: float | None = 0.0  # from start to end; None: until `EmulatedPlatform.jobs.finish` or a cancellation
    status: ClaraJobStatus = ClaraJobStatus.HEALTHY  # at the end
    messages: tuple[str, ...] = ()  # at the end


@frozen(kw_only=True)
class ClaraJob:
    """One job of the platform."""

    job_id: str  # 32 lower-case hexadecimal digits, like all ids here
    payload_id: str
    pipeline_id: str
    name: str
    priority: JobPriority
    metadata: Mapping[str, str] = field(factory=dict, repr=False)  # may hold DICOM values
    state: ClaraJobState = ClaraJobState.PENDING
    status: ClaraJobStatus = ClaraJobStatus.HEALTHY
    messages: tuple[str, ...] = ()
    created: datetime
    started: datetime | None = None
    stopped: datetime | None = None
    variables: Mapping[str, str] = field(factory=dict)  # that it was started with
    ends: datetime | None = None  # of a running job; None: not by itself
    run: RunPlan = RunPlan()  # how it ends when `ends` has come


@frozen(kw_only=True)
class PayloadFile:
    """One file of a payload."""

    name: str = field(repr=False)  # from the payload's root, such as "input/dcm/1.dcm"; may hold a patient's id
    size_bytes: int
    mode: int = 0  # Unix permissions as they were sent; 0 from NVIDIA's clients


@frozen(kw_only=True)
class ClaraPayload:
    """The files that a job reads and writes, or that jobs can be given."""

    payload_id: str
    type: PayloadType
    job_id: str | None = None  # of the job that it was made for
    metadata: Mapping[str, str] = field(factory=dict, repr=False)
    files: tuple[PayloadFile, ...] = ()  # by name


@frozen(kw_only=True)
class PipelineFile:
    """One file of a pipeline's definition."""

    path: str
    content: str = field(repr=False)


@frozen(kw_only=True)
class ClaraPipeline:
    """A pipeline: the definition that jobs run."""

    pipeline_id: str
    name: str
    metadata: Mapping[str, str] = field(factory=dict, repr=False)
    files: tuple[PipelineFile, ...] = ()


@frozen(kw_only=True)
class KeyedAnswer:
    """The answer to a request with an idempotency key."""

    key: str
    fingerprint: str  # of the request
    since: datetime  # when the request came
    status: int
    body: Any = field(repr=False)  # of JSON; may hold DICOM values
    headers: Mapping[str, str] = field(factory=dict)


@frozen(kw_only=True)
class JobFilter:
    """Which jobs to list: all that is given must hold; empty means any."""

    completed_before: datetime | None = None  # exclusive; leaves out what has not stopped
    created_after: datetime | None = None  # exclusive
    states: frozenset[ClaraJobState] = frozenset()
    statuses: frozenset[ClaraJobStatus] = frozenset()
    pipeline_ids: frozenset[str] = frozenset()  # of lower case

    def takes(self, job: ClaraJob) -> bool:
        return (
            (not self.completed_before or (job.stopped is not None and job.stopped < self.completed_before))
            and (not self.created_after or job.created > self.created_after)
            and (not self.states or job.state in self.states)
            and (not self.statuses or job.status in self.statuses)
            and (not self.pipeline_ids or job.pipeline_id in self.pipeline_ids)
        )


@frozen(kw_only=True)
class PlatformVersion:
    """What the platform says of itself."""

    major: int = 0
    minor: int = 8
    patch: int = 1
    label: str = "emulator"
