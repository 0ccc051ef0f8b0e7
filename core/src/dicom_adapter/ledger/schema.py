"""Tables of the ledger. A change here needs a migration in `migrations/versions/`; a test compares the two."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    literal_column,
    text,
)

from dicom_adapter.ledger.column_types import RowId, UtcDateTime

metadata = MetaData()


class InstanceState(str, Enum):
    """The state of an instance."""

    PENDING = "pending"  # the processor has not released the instance
    QUARANTINED = "quarantined"  # no processor can handle the instance
    RELEASED = "released"  # the processor no longer needs the instance, or a newer instance replaced it
    RECLAIMED = "reclaimed"  # the stored object was deleted


class InstanceOutcome(str, Enum):
    """The use of an instance before it was reclaimed."""

    SUBMITTED = "submitted"  # at least one job with the instance was submitted, or has succeeded
    CANCELLED = "cancelled"  # operators cancelled every job with the instance
    UNUSED = "unused"  # the processor released the instance without a job
    REPLACED = "replaced"  # a newer instance replaced it
    DISCARDED = "discarded"  # an operator discarded the instance


class LaneState(str, Enum):
    """The state of a lane: an AE title accepts instances if its lane is running."""

    RUNNING = "running"
    STOPPED = "stopped"  # associations are rejected, instances wait


# Columns whose values together identify a row of `series`
SERIES_KEY = ("series_instance_uid", "study_instance_uid", "patient_id", "accession_number", "study_date", "modality")
# States of jobs, see `JobState`. Unfinished and held jobs need their instances.
UNFINISHED_JOB_STATES = ("queued", "created", "metadata-sent", "uploaded", "running")  # the job engine continues
BEGUN_JOB_STATES = UNFINISHED_JOB_STATES[1:]  # of these, the jobs that exist on the platform
HELD_JOB_STATES = ("faulted", "failed")  # an operator decides whether to retry or to cancel the job
FINISHED_JOB_STATES = ("submitted", "succeeded", "cancelled")

instances = Table(
    "instances",
    metadata,
    Column("instance_id", RowId, primary_key=True, autoincrement=True),
    Column("ae_title", String(16), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("peer_address", String(45), nullable=False),
    Column("association_id", String(32), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("storage_key", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),  # reason of the quarantine, without patient data
    Column("replaced_by", RowId, nullable=True),  # the newer instance that replaced this one
    Column("changed_at", UtcDateTime, nullable=False, server_default="0"),  # time of the last change of `state`
    Column("outcome", String(16), nullable=False, server_default=""),  # an InstanceOutcome; "" while it is unknown
    # Of a result: the number of the job that has produced it, also when the job is deleted. None: it was received.
    Column("source_job", RowId, nullable=True),
    Column("output_name", Text, nullable=True),  # of a result: the name that its pipeline chose; may be patient data
    Column("keep_until", UtcDateTime, nullable=True),  # of a result: it is not reclaimed before
    # Ids are never reused: a reader of "all rows after 17" must not miss a new row 18.
    sqlite_autoincrement=True,
)
Index(
    "one_pending_instance",
    instances.c.ae_title,
    instances.c.sop_instance_uid,
    unique=True,
    sqlite_where=text("state = 'pending'"),
)
Index(
    "pending_instances",
    instances.c.ae_title,
    instances.c.instance_id,
    sqlite_where=text("state = 'pending'"),
)
Index("released_instances", instances.c.instance_id, sqlite_where=text("state = 'released'"))
Index(
    "replaced_instances",
    instances.c.replaced_by,
    sqlite_where=text("replaced_by IS NOT NULL"),
)

Index(
    "quarantined_instances",
    instances.c.ae_title,
    instances.c.instance_id,
    instances.c.size_bytes,  # so that the sum of the sizes can be computed from the index
    sqlite_where=text("state = 'quarantined'"),
)
Index(
    "reclaimed_instances",
    instances.c.changed_at,
    sqlite_where=text("state = 'reclaimed'"),
)
Index("instances_of_study", instances.c.study_instance_uid)
Index("arrivals_of_instance", instances.c.sop_instance_uid)
Index("results_of_job", instances.c.source_job, sqlite_where=text("source_job IS NOT NULL"))
Index("results_by_uid", instances.c.sop_instance_uid, sqlite_where=text("source_job IS NOT NULL"))
Index(
    "newest_results",
    instances.c.instance_id,
    instances.c.ae_title,  # so that results of other AE titles and times are skipped without reading their rows
    instances.c.received_at,
    sqlite_where=text("source_job IS NOT NULL"),
)
Index("results_by_checksum", instances.c.checksum, sqlite_where=text("source_job IS NOT NULL"))

# Series that have arrived; the class `ledger.series.ArrivedSeries` explains the columns.
series = Table(
    "series",
    metadata,
    Column("series_number", RowId, primary_key=True, autoincrement=True),
    Column("series_instance_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("study_date", Text, nullable=False),
    Column("modality", Text, nullable=False),
    Column("study_description", Text, nullable=False),
    Column("series_description", Text, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),  # time of an arrival, not always the last one
)
Index("one_series", *(series.c[name] for name in SERIES_KEY), unique=True)
Index("series_of_study", series.c.study_instance_uid)
Index("series_of_accession_number", series.c.accession_number)
Index("series_of_patient", series.c.patient_id)
Index("series_by_time", series.c.seen_at)

# Counters of received instances, results, deleted rows and duplicates, see `ledger.counters`.
tallies = Table(
    "tallies",
    metadata,
    Column("ae_title", String(16), primary_key=True),
    Column("what", String(16), primary_key=True),  # name of the counter
    Column("count", BigInteger, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_number", RowId, primary_key=True, autoincrement=True),  # in the order of submission
    Column("job_id", String(32), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("ae_title", String(16), nullable=False),
    Column("pipeline_id", Text, nullable=False),
    Column("priority", Integer, nullable=False),  # rank; 0 is the highest priority
    Column("submitter", Text, nullable=False),
    Column("instance_count", Integer, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),  # failed attempts of the next step
    Column("failing_since", UtcDateTime, nullable=True),  # time of the first failed attempt since the last success
    Column("next_attempt_at", UtcDateTime, nullable=True),
    Column("last_error", Text, nullable=False, server_default=""),
    Column("platform_job_id", Text, nullable=False, server_default=""),
    Column("platform_payload_id", Text, nullable=False, server_default=""),
    Column("repeated", Boolean, nullable=False, server_default=text("0")),  # the next step has been attempted before
    Column("faulted_in", String(16), nullable=True),  # the state in which a step failed permanently
    Column("cancel_requested", Boolean, nullable=False, server_default=text("0")),
    Column("platform_state", Text, nullable=False, server_default=""),  # last reported state of a started job
    Column("platform_detail", Text, nullable=False, server_default=""),  # details of this state
    Column("platform_finished", Boolean, nullable=False, server_default=text("0")),  # the platform reported the end
    Column("platform_asked_at", UtcDateTime, nullable=True),  # last poll of the status
    Column("run", Integer, nullable=False, server_default="1"),  # number of the run on the platform
    Column("started_at", UtcDateTime, nullable=True),  # time at which the run was started on the platform
    Column("attachment_count", Integer, nullable=False, server_default="0"),  # see `attachment_schema`
    sqlite_autoincrement=True,
)
# To count jobs. Its condition, which is true for every job, keeps SQLite from using it for any other query.
Index("counted_jobs", jobs.c.ae_title, jobs.c.submitter, jobs.c.state, sqlite_where=text("job_number > 0"))
# The newest jobs of an AE title. With the other columns, jobs in other states are skipped without reading their rows.
Index("jobs_of_ae_title", jobs.c.ae_title, jobs.c.job_number, jobs.c.state, jobs.c.submitter)
Index(
    "unfinished_jobs",
    jobs.c.submitter,
    jobs.c.ae_title,
    jobs.c.priority,
    jobs.c.job_number,
    jobs.c.next_attempt_at,
    sqlite_where=text(f"state IN {UNFINISHED_JOB_STATES}"),
)
Index(
    "started_jobs",
    jobs.c.submitter,
    jobs.c.platform_asked_at,
    sqlite_where=text("state IN ('submitted', 'running') AND platform_finished = 0"),
)
Index("begun_jobs", jobs.c.submitter, sqlite_where=text(f"state IN {BEGUN_JOB_STATES}"))
Index(
    "held_jobs",
    jobs.c.ae_title,
    jobs.c.job_number,
    jobs.c.state,  # so that the planner prefers this index to those of all jobs
    sqlite_where=text(f"state IN {HELD_JOB_STATES}"),
)
Index(
    "finished_jobs",
    jobs.c.changed_at,
    sqlite_where=text(f"state IN {FINISHED_JOB_STATES}"),
)

job_instances = Table(
    "job_instances",
    metadata,
    Column("job_number", ForeignKey("jobs.job_number", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),  # 0-based, in the order that the processor chose
    Column("instance_id", ForeignKey("instances.instance_id"), nullable=False, index=True),
    Column("uploaded", Boolean, nullable=False, server_default=text("0")),
)

# Outputs of jobs that are not DICOM.
attachments = Table(
    "attachments",
    metadata,
    Column("attachment_number", RowId, primary_key=True, autoincrement=True),
    # None: the job was deleted. Then the stored object is deleted first, and this row after it.
    Column("job_number", ForeignKey("jobs.job_number", ondelete="SET NULL"), nullable=True, index=True),
    Column("name", Text, nullable=False),  # the name that the pipeline chose; may contain patient data
    Column("storage_key", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),  # CRC-32 of the whole file
    sqlite_autoincrement=True,
)
Index("attachments_by_checksum", attachments.c.checksum)

lanes = Table(
    "lanes",
    metadata,
    Column("ae_title", String(16), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),  # why the lane is stopped, or why it runs without progress
    Column("since", UtcDateTime, nullable=False),  # time of the last change of `state`
    Column("waiting", JSON, nullable=False),  # number of waiting groups, and the groups that will be due next
    Column("full", Text, nullable=False, server_default=""),  # why no instances are accepted although the lane runs
    Column("restarts", Integer, nullable=False, server_default="0"),  # number of restarts that operators requested
)

health = Table(
    "health",
    metadata,
    Column("part", Text, primary_key=True),  # name of a process, or of a part of the host
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),  # why the state is not ok; without patient data
    Column("since", UtcDateTime, nullable=False),  # time of the last change of `state`
    Column("seen_at", UtcDateTime, nullable=False),  # time of the last check
    Column("pid", Integer, nullable=True),  # PID of a process
)

commits = Table(
    "commits",
    metadata,
    Column("run", String(32), primary_key=True),  # id of the receiver run
    Column("receiver", Text, nullable=False),  # name of the receiver, the same for all its runs
    Column("reached", BigInteger, nullable=False),  # high-water mark: all up to this number have rows, or were dropped
    Column("settled", BigInteger, nullable=False, server_default="0"),  # number of checkpoints of the run
)

configurations = Table(
    "configurations",
    metadata,
    Column("number", RowId, primary_key=True, autoincrement=True),
    Column("text", Text, nullable=False),
    Column("folder", Text, nullable=False),  # the base of relative paths
    Column("settings", JSON, nullable=False),  # parsed values, secrets as digests
    Column("wanted", JSON, nullable=False),  # a ReloadRequest, see `configurations`
    Column("leaving", JSON, nullable=False),  # the AE titles and submitters of this configuration that are draining
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("event_id", RowId, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("event", String(32), nullable=False),
    Column("ae_title", String(16), nullable=False),
    Column("association_id", String(32), nullable=True, index=True),
    Column("instance_id", RowId, nullable=True, index=True),
    Column("job_id", String(32), nullable=True, index=True),
    Column("detail", JSON, nullable=False),  # without patient data
    sqlite_autoincrement=True,
)
Index("events_by_time", events.c.at)
# Condition of events that concern a whole AE title: few among the many events of its instances and jobs
CONCERNS_AE_TITLE = "instance_id IS NULL AND job_id IS NULL AND association_id IS NULL"
Index(
    "events_of_ae_title",
    events.c.ae_title,
    events.c.at,
    sqlite_where=text(CONCERNS_AE_TITLE),
)

# Accepted associations of each sender; the class `ledger.senders.Sender` explains the columns.
senders = Table(
    "senders",
    metadata,
    Column("calling_ae_title", String(16), primary_key=True),
    Column("ae_title", String(16), primary_key=True),
    Column("peer_address", String(45), primary_key=True),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("associations", BigInteger, nullable=False),
    Column("instances", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
)
Index("senders_by_time", senders.c.last_at)

# Rejected associations of each hour; the class `ledger.senders.Rejected` explains the columns.
rejections = Table(
    "rejections",
    metadata,
    Column("rejection_number", RowId, primary_key=True, autoincrement=True),
    Column("hour", UtcDateTime, nullable=False),  # the beginning of the hour
    Column("peer_address", String(45), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("ae_title", String(16), nullable=False),
    Column("cause", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("since", UtcDateTime, nullable=True),
)
Index("rejections_of_hour", rejections.c.hour, rejections.c.peer_address)

# The storage that belongs to the ledger, in one row. The generation increases while a service uses both.
storages = Table(
    "storages",
    metadata,
    Column("identity", String(36), primary_key=True),  # UUID
    Column("generation", BigInteger, nullable=False),
    Column("next_generation", BigInteger, nullable=True),  # not None: the storage has this one, or still `generation`
    Column("recorded_at", UtcDateTime, nullable=False),
)

# SQLite uses a partial index only for a query that repeats its condition literally, without bound parameters.
IS_PENDING = instances.c.state == literal_column("'pending'")
IS_RELEASED = instances.c.state == literal_column("'released'")
IS_QUARANTINED = instances.c.state == literal_column("'quarantined'")
IS_RESULT = instances.c.source_job.is_not(None)
IS_RECLAIMED = instances.c.state == literal_column("'reclaimed'")
IS_IN = {
    InstanceState.PENDING: IS_PENDING,
    InstanceState.QUARANTINED: IS_QUARANTINED,
    InstanceState.RELEASED: IS_RELEASED,
    InstanceState.RECLAIMED: IS_RECLAIMED,
}
IS_COUNTED = jobs.c.job_number > literal_column("0")  # every job; for the index `counted_jobs`
IS_QUEUED = jobs.c.state == literal_column("'queued'")
IS_UPLOADED = jobs.c.state == literal_column("'uploaded'")
IS_RUNNING = jobs.c.state == literal_column("'running'")


def _is_in(states: Sequence[str]) -> ColumnElement[bool]:
    return jobs.c.state.in_([literal_column(f"'{state}'") for state in states])


IS_STARTED = _is_in(("submitted", "running")) & ~jobs.c.platform_finished
IS_BEGUN = _is_in(BEGUN_JOB_STATES)
IS_HELD = _is_in(HELD_JOB_STATES)
IS_FINISHED = _is_in(FINISHED_JOB_STATES)
IS_UNFINISHED = _is_in(UNFINISHED_JOB_STATES)
