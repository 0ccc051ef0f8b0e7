"""The metrics that are not counted, but read when they are requested: names, texts and labels."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen


@frozen(kw_only=True)
class Gauge:
    """A metric whose value is read when it is requested."""

    name: str
    text: str  # one sentence for operators
    labels: Sequence[str] = ()
    is_counter: bool = False  # the value only increases; it is shown with the further suffix `_total`


BUILD = Gauge(
    name="dicom_adapter_build_info",
    text="Always 1; the labels are the versions of the adapter and of Python.",
    labels=("version", "python_version"),
)
HEALTH = Gauge(
    name="dicom_adapter_health",
    text="1 for the current level of the health (green, yellow or red), 0 for the others.",
    labels=("level",),
)
PROBLEMS = Gauge(
    name="dicom_adapter_problems",
    text="Number of problems because of which the health is not green; `dicom-adapter status` lists them.",
    labels=("level",),
)
SAMPLE_AGE = Gauge(
    name="dicom_adapter_sample_age_seconds",
    text="Age of the metrics that are read from ledger, storage and processes; it grows while these do not answer.",
)
ACCEPTING = Gauge(
    name="dicom_adapter_ae_title_accepting",
    text="1 if the AE title accepts associations and instances, 0 if not.",
    labels=("ae_title",),
)
OPEN_GROUPS = Gauge(
    name="dicom_adapter_open_groups",
    text="Groups of instances that have not been submitted yet.",
    labels=("ae_title",),
)
GROUP_OVERDUE = Gauge(
    name="dicom_adapter_group_overdue_seconds",
    text="Time since the first of the open groups was due; 0 if none is overdue.",
    labels=("ae_title",),
)
PENDING = Gauge(
    name="dicom_adapter_pending_instances",
    text="Stored instances that the job processor has not released.",
    labels=("ae_title",),
)
OLDEST_PENDING = Gauge(
    name="dicom_adapter_oldest_pending_instance_age_seconds",
    text="Age of the oldest pending instance, and so of the oldest open group; 0 if there is none.",
    labels=("ae_title",),
)
NOT_ENTERED = Gauge(
    name="dicom_adapter_not_entered_instances",
    text="Instances that are stored, not yet entered in the ledger.",
)
OLDEST_NOT_ENTERED = Gauge(
    name="dicom_adapter_oldest_not_entered_instance_age_seconds",
    text="Age of the oldest instance that is stored, not yet entered in the ledger; 0 if there is none.",
)
LAST_ASSOCIATION = Gauge(
    name="dicom_adapter_last_association_timestamp_seconds",
    text="Time at which the last association with instances ended, in seconds since 1970.",
    labels=("ae_title",),
)
JOBS = Gauge(
    name="dicom_adapter_jobs",
    text="Jobs that are not finished: unfinished jobs, and faulted and failed ones, which wait for an operator.",
    labels=("ae_title", "state"),
)
OLDEST_JOB = Gauge(
    name="dicom_adapter_oldest_job_age_seconds",
    text="Age of the oldest unfinished job; 0 if there is none.",
    labels=("ae_title",),
)
FAILING_JOBS = Gauge(
    name="dicom_adapter_failing_jobs",
    text="Unfinished jobs whose last attempt failed.",
    labels=("submitter",),
)
QUARANTINED = Gauge(
    name="dicom_adapter_quarantined_instances",
    text="Quarantined instances, without results.",
    labels=("ae_title",),
)
QUARANTINED_RESULTS = Gauge(
    name="dicom_adapter_quarantined_results",
    text="Quarantined results of jobs.",
    labels=("ae_title",),
)
HELD_BYTES = Gauge(
    name="dicom_adapter_held_bytes",
    text="Space that quarantined instances and the instances of faulted and failed jobs use.",
    labels=("ae_title",),
)
QUARANTINE_QUOTA = Gauge(
    name="dicom_adapter_quarantine_quota_bytes",
    text="Limit of `dicom_adapter_held_bytes` for each AE title (`[storage] quarantine-quota`).",
)
STORAGE_CAPACITY = Gauge(
    name="dicom_adapter_storage_capacity_bytes",
    text="Total space of the storage; missing if it is unknown or unlimited.",
)
STORAGE_FREE = Gauge(
    name="dicom_adapter_storage_free_bytes",
    text="Free space of the storage; missing if it is unknown or unlimited.",
)
STORAGE_LIMIT = Gauge(
    name="dicom_adapter_storage_required_free_bytes",
    text="Free space below which associations are rejected, because of the watermark or the reserve.",
)
LEDGER_FREE = Gauge(
    name="dicom_adapter_ledger_free_bytes",
    text="Free space on the disk of the ledger.",
)
LEDGER_SIZE = Gauge(
    name="dicom_adapter_ledger_size_bytes",
    text="Size of the ledger with its write-ahead log.",
)
CERTIFICATE = Gauge(
    name="dicom_adapter_certificate_expiry_timestamp_seconds",
    text="Time at which the first certificate of the listener or of a submitter expires, in seconds since 1970.",
    labels=("owner", "kind"),
)
PROCESS_MEMORY = Gauge(
    name="dicom_adapter_process_resident_memory_bytes",
    text="Resident memory of a process. Processes share a part of it.",
    labels=("process",),
)
PROCESS_CPU = Gauge(
    name="dicom_adapter_process_cpu_seconds",
    text="CPU time that a process has used.",
    labels=("process",),
    is_counter=True,
)
PROCESS_FILES = Gauge(
    name="dicom_adapter_process_open_fds",
    text="Open file descriptors of a process.",
    labels=("process",),
)
PROCESS_MOST_FILES = Gauge(
    name="dicom_adapter_process_max_fds",
    text="Maximum number of open file descriptors of a process.",
    labels=("process",),
)
PROCESS_THREADS = Gauge(
    name="dicom_adapter_process_threads",
    text="Threads of a process.",
    labels=("process",),
)
PROCESS_START = Gauge(
    name="dicom_adapter_process_start_time_seconds",
    text="Time at which a process was started, in seconds since 1970.",
    labels=("process",),
)

GAUGES = (
    BUILD,
    HEALTH,
    PROBLEMS,
    SAMPLE_AGE,
    ACCEPTING,
    OPEN_GROUPS,
    GROUP_OVERDUE,
    PENDING,
    OLDEST_PENDING,
    NOT_ENTERED,
    OLDEST_NOT_ENTERED,
    LAST_ASSOCIATION,
    JOBS,
    OLDEST_JOB,
    FAILING_JOBS,
    QUARANTINED,
    QUARANTINED_RESULTS,
    HELD_BYTES,
    QUARANTINE_QUOTA,
    STORAGE_CAPACITY,
    STORAGE_FREE,
    STORAGE_LIMIT,
    LEDGER_FREE,
    LEDGER_SIZE,
    CERTIFICATE,
    PROCESS_MEMORY,
    PROCESS_CPU,
    PROCESS_FILES,
    PROCESS_MOST_FILES,
    PROCESS_THREADS,
    PROCESS_START,
)
