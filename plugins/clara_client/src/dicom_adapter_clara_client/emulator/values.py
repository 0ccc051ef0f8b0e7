"""Values of the emulated platform: jobs, payloads with their files, pipelines. All times are UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from attrs import field, frozen

from dicom_adapter import JobPriority


class ClaraJobState(str, Enum):
    """State of a job. A job passes through the states in this order."""

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
    """Kind of a payload: PIPELINE belongs to one job; REUSABLE was created by a client for any number of jobs."""

    PIPELINE = "pipeline"
    REUSABLE = "reusable"


@frozen(kw_only=True)
class RunPlan:
    """Duration and result of jobs that are started from now on."""

    seconds: float | None = 0.0  # from start to end; None: until `EmulatedPlatform.jobs.finish` or `cancel`
    status: ClaraJobStatus = ClaraJobStatus.HEALTHY  # at the end
    messages: tuple[str, ...] = ()  # at the end
    # Outputs of jobs that end as HEALTHY, below `outputs.OUTPUT` in their payload.
    output_folder: Path | None = None  # its files
    secondary_capture: bool = False  # an image in the study of the first file in the input folder


@frozen(kw_only=True)
class ClaraJob:
    """One job of the platform."""

    job_id: str  # 32 lower-case hexadecimal digits, like all ids here
    payload_id: str
    pipeline_id: str
    name: str
    priority: JobPriority
    metadata: Mapping[str, str] = field(factory=dict, repr=False)  # may contain DICOM values
    state: ClaraJobState = ClaraJobState.PENDING
    status: ClaraJobStatus = ClaraJobStatus.HEALTHY
    messages: tuple[str, ...] = ()
    created: datetime
    started: datetime | None = None
    stopped: datetime | None = None
    variables: Mapping[str, str] = field(factory=dict)  # from the start of the job
    ends: datetime | None = None  # when a running job will end; None: not automatically
    run: RunPlan = RunPlan()  # the result of the job at the time `ends`


@frozen(kw_only=True)
class PayloadFile:
    """One file of a payload."""

    # Relative to the payload's root, such as "input/dcm/1.dcm". May contain a patient's id.
    name: str = field(repr=False)
    size_bytes: int
    mode: int = 0  # Unix permissions that the client sent; NVIDIA's clients send 0


@frozen(kw_only=True)
class ClaraPayload:
    """Files that a job reads and writes, or input files for any number of jobs."""

    payload_id: str
    type: PayloadType
    job_id: str | None = None  # the job that it was created for
    metadata: Mapping[str, str] = field(factory=dict, repr=False)
    files: tuple[PayloadFile, ...] = ()  # by name


@frozen(kw_only=True)
class PipelineFile:
    """One file of a pipeline's definition."""

    path: str
    content: str = field(repr=False)


@frozen(kw_only=True)
class ClaraPipeline:
    """A pipeline: the definition that jobs execute."""

    pipeline_id: str
    name: str
    metadata: Mapping[str, str] = field(factory=dict, repr=False)
    files: tuple[PipelineFile, ...] = ()


@frozen(kw_only=True)
class KeyedAnswer:
    """The response to a request with an idempotency key."""

    key: str
    fingerprint: str  # of the request
    since: datetime  # time of the request
    status: int
    body: Any = field(repr=False)  # JSON; may contain DICOM values
    headers: Mapping[str, str] = field(factory=dict)


@frozen(kw_only=True)
class JobFilter:
    """Conditions for jobs, of which all must hold; an empty condition matches every job."""

    completed_before: datetime | None = None  # exclusive; excludes jobs that have not stopped
    created_after: datetime | None = None  # exclusive
    states: frozenset[ClaraJobState] = frozenset()
    statuses: frozenset[ClaraJobStatus] = frozenset()
    pipeline_ids: frozenset[str] = frozenset()  # in lower case

    def matches(self, job: ClaraJob) -> bool:
        return (
            (not self.completed_before or (job.stopped is not None and job.stopped < self.completed_before))
            and (not self.created_after or job.created > self.created_after)
            and (not self.states or job.state in self.states)
            and (not self.statuses or job.status in self.statuses)
            and (not self.pipeline_ids or job.pipeline_id in self.pipeline_ids)
        )


@frozen(kw_only=True)
class PlatformVersion:
    """Version that the platform reports."""

    major: int = 0
    minor: int = 8
    patch: int = 1
    label: str = "emulator"
