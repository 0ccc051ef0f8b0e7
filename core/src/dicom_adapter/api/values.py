"""The values that travel through the adapter: frozen, compared by content, without patient data in their `repr`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum

from attrs import field, frozen


@frozen(kw_only=True)
class InstanceStorageInfo:
    """One received SOP instance: who sent it, what it is, and where it waits."""

    instance_id: int  # the adapter's own number, in the order of arrival
    ae_title: str  # called AE title, without padding
    calling_ae_title: str  # without padding
    peer_address: str  # IP address of the sender
    association_id: str  # the adapter's own name for the association
    sop_class_uid: str  # (0008,0016)
    sop_instance_uid: str  # (0008,0018)
    study_instance_uid: str  # (0020,000D)
    series_instance_uid: str  # (0020,000E)
    transfer_syntax_uid: str  # as negotiated; the data set is stored in it
    patient_id: str = field(repr=False)  # (0010,0020), "" when absent; never logged
    issuer_of_patient_id: str = field(repr=False)  # (0010,0021), "" when absent; never logged
    received_at: datetime  # UTC; when the data set had arrived whole
    storage_key: str  # names the stored object in the storage backend
    size_bytes: int  # of the stored Part 10 file
    checksum: int  # CRC-32 (ISO 3309) of the encoded data set


class JobPriority(str, Enum):
    """How urgent a job is, in the inference platform's four grades."""

    LOWER = "lower"
    NORMAL = "normal"
    HIGHER = "higher"
    IMMEDIATE = "immediate"


class JobState(str, Enum):
    """Where a job stands; the allowed steps are the table at the top of `flow/submit.py`."""

    QUEUED = "queued"
    CREATED = "created"
    METADATA_SENT = "metadata-sent"
    UPLOADED = "uploaded"
    SUBMITTED = "submitted"
    FAULTED = "faulted"
    CANCELLED = "cancelled"


@frozen(kw_only=True)
class Job:
    """Instances that belong together, on their way to one pipeline."""

    job_id: str  # 32 lower-case hexadecimal digits; the idempotency key towards the platform
    name: str
    ae_title: str
    pipeline_id: str
    priority: JobPriority
    submitter: str  # the name of a [submitters.<name>] table
    instance_count: int
    metadata: Mapping[str, str] = field(factory=dict, repr=False)  # may hold configured DICOM values
    state: JobState = JobState.QUEUED
    created_at: datetime  # UTC; when the processor submitted it
    changed_at: datetime  # UTC; the last change of state
    attempts: int = 0  # failed attempts of the step that comes next
    next_attempt_at: datetime | None = None  # UTC; None: as soon as possible
    last_error: str = ""  # without patient data
    platform_job_id: str = ""
    platform_payload_id: str = ""
    repeated: bool = False  # the step that comes next was begun before, and may have reached the platform
    faulted_in: JobState | None = None  # the state whose step failed for good; None: the job is not faulted
    cancel_requested: bool = False  # an operator wants it stopped; the platform may not know yet
    platform_state: str = ""  # the platform's own word for a started job, as last asked
    platform_detail: str = ""
    platform_finished: bool = False  # the platform will not change its word again


@frozen(kw_only=True)
class PlatformJob:
    """What the platform calls a job that it created."""

    job_id: str
    payload_id: str = ""


@frozen(kw_only=True)
class PlatformStatus:
    """What the platform says of a job that was started."""

    state: str  # the platform's own word, such as "running"
    finished: bool
    detail: str = ""


@frozen(kw_only=True)
class Waiting:
    """Something that a processor holds back, for the operator: what, how much, and until when."""

    label: str  # names the group without patient data, such as "study 1.2.3" or "patient #5f3a"
    instance_count: int
    until: datetime | None  # UTC; None: until somebody asks for it


@frozen(kw_only=True)
class Capacity:
    """Room in a storage backend, in bytes."""

    total_bytes: int
    free_bytes: int
