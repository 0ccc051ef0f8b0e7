"""Values of the plugin interface: frozen, compared by content, without patient data in their `repr`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum

from attrs import field, frozen


@frozen(kw_only=True)
class InstanceStorageInfo:
    """One received SOP instance: its origin, its identity and its place in the storage backend."""

    instance_id: int  # assigned by the adapter, ascending in the order of arrival
    ae_title: str  # called AE title (PS3.8 9.3.2), without padding
    calling_ae_title: str  # calling AE title (PS3.8 9.3.2), without padding
    peer_address: str  # IP address of the requestor
    association_id: str  # assigned by the adapter, unique
    sop_class_uid: str  # (0008,0016), PS3.3 C.12.1
    sop_instance_uid: str  # (0008,0018)
    study_instance_uid: str  # (0020,000D)
    series_instance_uid: str  # (0020,000E)
    transfer_syntax_uid: str  # transfer syntax of the accepted presentation context; the data set is stored as received
    patient_id: str = field(repr=False)  # (0010,0020), "" when absent; never logged
    issuer_of_patient_id: str = field(repr=False)  # (0010,0021), "" when absent; never logged
    received_at: datetime  # time in UTC at which the last fragment of the data set arrived
    storage_key: str  # name of the stored object in the storage backend
    size_bytes: int  # size of the stored Part 10 file (PS3.10)
    checksum: int  # CRC-32 (ISO 3309) of the encoded data set


class JobPriority(str, Enum):
    """Priority of a job on the platform, from the lowest to the highest."""

    LOWER = "lower"
    NORMAL = "normal"
    HIGHER = "higher"
    IMMEDIATE = "immediate"


class JobState(str, Enum):
    """State of a job. The table at the top of `flow/submit/steps.py` has the allowed transitions."""

    QUEUED = "queued"  # committed by the processor, and not yet created on the platform
    CREATED = "created"  # exists on the platform, without metadata and instances
    METADATA_SENT = "metadata-sent"  # all metadata are on the platform
    UPLOADED = "uploaded"  # all instances are on the platform
    SUBMITTED = "submitted"  # started on the platform; the last state if the submitter does not follow jobs
    RUNNING = "running"  # started on the platform, and followed until its end
    SUCCEEDED = "succeeded"  # ended on the platform with success; its results are stored
    FAILED = "failed"  # ended on the platform without success
    FAULTED = "faulted"  # given up after a permanent error or too many retries
    CANCELLED = "cancelled"  # cancelled by an operator


@frozen(kw_only=True)
class Job:
    """One set of instances for one pipeline."""

    job_id: str  # 32 lower-case hexadecimal digits
    name: str
    ae_title: str
    pipeline_id: str
    priority: JobPriority
    submitter: str  # the name of a [submitters.<name>] table
    instance_count: int
    metadata: Mapping[str, str] = field(factory=dict, repr=False)  # may contain configured DICOM values
    state: JobState = JobState.QUEUED
    created_at: datetime  # time in UTC at which the processor submitted the job
    changed_at: datetime  # time in UTC of the last change of `state`
    attempts: int = 0  # number of failed attempts of the next step
    next_attempt_at: datetime | None = None  # time in UTC of the next attempt; None means as soon as possible
    last_error: str = ""  # message of the last error, without patient data
    platform_job_id: str = ""  # id that the platform assigned; "" before CREATED
    platform_payload_id: str = ""  # id of the uploaded data that the platform assigned; may be ""
    repeated: bool = False  # the next step was attempted before and may have reached the platform
    faulted_in: JobState | None = None  # of a faulted job: the state in which it was given up; otherwise None
    cancel_requested: bool = False  # an operator has cancelled the job; the platform may still run it
    platform_state: str = ""  # state of a started job as last reported by the platform, not translated
    platform_detail: str = ""  # explanation of `platform_state` as reported by the platform
    platform_finished: bool = False  # `platform_state` is final
    run: int = 1  # number of the run on the platform: the retry of a failed job is another run
    started_at: datetime | None = None  # time in UTC at which the run was started on the platform; None before
    attachment_count: int = 0  # number of attachments that the job delivers, besides its instances

    @property
    def run_id(self) -> str:
        """The idempotency key for the platform, at most 40 characters: `job_id`, with the run's number from 2 on."""
        return self.job_id if self.run == 1 else f"{self.job_id}-{self.run}"


@frozen(kw_only=True)
class JobRequest:
    """A processor's request for a job, see `JobProcessorBase.submit_pipeline_job`."""

    name: str
    pipeline_id: str
    priority: JobPriority
    instances: tuple[InstanceStorageInfo, ...]
    metadata: Mapping[str, str] = field(factory=dict)
    submitter: str | None = None  # None: the submitter of the AE title
    job_id: str | None = None  # None: a random id


@frozen(kw_only=True)
class PlatformJob:
    """Identifiers that the platform assigned to a created job."""

    job_id: str
    payload_id: str = ""  # id of the folder or collection for the uploaded instances; "" if the platform has none


@frozen(kw_only=True)
class PlatformStatus:
    """Status of a started job as reported by the platform."""

    state: str  # name of the state on the platform, such as "running"
    finished: bool  # `state` is final
    detail: str = ""  # explanation of `state`
    # Of a finished job: True if it succeeded, False if it failed. None: not finished, or not reported by the platform.
    succeeded: bool | None = None


# Keys of the metadata of jobs.
SOURCE_JOB = "SourceJob"  # of a job that delivers results: the id of the job that has produced the results
INTERRUPTED = "Interrupted"  # of a job whose instances may be incomplete: what is known about them, no patient data


class AssociationStatus(str, Enum):
    """The state of an association: open, or the way in which it ended."""

    OPEN = "open"
    RELEASED = "released"  # by the requestor, in order
    ABORTED = "aborted"  # by either side
    LOST = "lost"  # the connection was lost, or the receiver process or the machine crashed


@frozen(kw_only=True)
class AssociationReport:
    """The end of an association in which C-STOREs were requested, or failures in an association that is still open."""

    association_id: str  # as in `InstanceStorageInfo`
    ae_title: str  # called AE title, without padding
    calling_ae_title: str  # without padding
    peer_address: str  # IP address of the requestor
    status: AssociationStatus
    began_at: datetime  # time in UTC of the request for the association, or of its first stored instance
    at: datetime  # time in UTC of the end, or of the first failure that no earlier report contains
    acknowledged: int  # number of C-STOREs that were answered with success
    failed: Mapping[str, int] = field(factory=dict)  # number of failed C-STOREs by status, such as "OUT_OF_RESOURCES"
    cut_off: int = 0  # number of data sets that were incomplete when the association ended
    # Study Instance UIDs of the instances that were not stored: failed, cut off, or a duplicate of a pending instance.
    # After a crash: those of the stored instances.
    studies: tuple[str, ...] = ()
    all_studies_known: bool = True  # False: the studies of some failed or cut off instances are unknown
    # False: the receiver or the machine crashed during the association, so further failures are possible.
    all_counted: bool = True
    # Number of consecutive associations of the sender, including this one, that ended as this one: without a release
    # and without evidence that something is missing.
    unreleased_in_a_row: int = 0

    @property
    def is_incomplete(self) -> bool:
        """Return whether there is evidence that instances are missing: a failure, a cut off data set, or a crash."""
        return bool(self.failed or self.cut_off or not self.all_counted)

    @property
    def is_clean(self) -> bool:
        """Return whether the association was released and each of its instances was acknowledged."""
        return self.status is AssociationStatus.RELEASED and not self.is_incomplete


@frozen(kw_only=True)
class Waiting:
    """A waiting group: pending instances that a processor has not submitted yet, as shown to operators."""

    label: str  # name of the group without patient data, such as "study 1.2.3" or "patient #5f3a"
    instance_count: int
    until: datetime | None  # time in UTC at which the group is due; None if it has no such time, as in a cache
    problem: str = ""  # why an operator should look at the group, such as missing instances; without patient data


@frozen(kw_only=True)
class Capacity:
    """Total and free space of a storage backend, in bytes."""

    total_bytes: int
    free_bytes: int
