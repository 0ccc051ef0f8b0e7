"""Values of requests and responses, shared by REST, gRPC and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct, field

from dicom_adapter import Job, JobPriority

LARGEST_PAGE = 1000  # entries
LARGEST_OFFSET = 1_000_000  # entries
LONGEST_TEXT = 1024  # maximum number of characters of a filter
# In Python, `$` also matches before a newline at the end; in JSON Schema it does not. This pattern is the same in both.
END = r"$(?!\n)"
UID_PATTERN = rf"^[0-9.]{{1,64}}{END}"  # PS3.5 section 9, without the rules that some devices violate
AE_TITLE_PATTERN = rf"^[ -\[\]-~]{{1,16}}{END}"
DATE_PATTERN = rf"^([0-9]{{8}}|[0-9]{{8}}-|-[0-9]{{8}}|[0-9]{{8}}-[0-9]{{8}}){END}"
PLAIN_PATTERN = rf"^[^\x00-\x1f\x7f]*{END}"  # no control characters
KEY_PATTERN = rf"^[!-~]{{1,255}}{END}"

Uid = Annotated[str, Meta(pattern=UID_PATTERN)]
AeTitle = Annotated[str, Meta(pattern=AE_TITLE_PATTERN)]
Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=PLAIN_PATTERN)]
Text = Annotated[str, Meta(max_length=LONGEST_TEXT, pattern=PLAIN_PATTERN)]


class Value(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base class of immutable values. In JSON, `study_date` is `studyDate`; unknown members are errors."""

    def __repr__(self) -> str:
        return type(self).__name__  # without fields, because most fields contain patient data


# --- results ----------------------------------------------------------------------------------------------------------


class Patient(Value, frozen=True, kw_only=True):
    """A patient with studies in the cache, identified by AE title, Patient ID and issuer of the Patient ID."""

    ae_title: str
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    studies: int
    instances: int
    size_bytes: int
    last_arrival: datetime


class Study(Value, frozen=True, kw_only=True):
    """A study in the cache."""

    ae_title: str
    study_instance_uid: str
    patient_conflict: bool  # the instances disagree about the patient
    # The patient of the newest instance; name, birth date and sex may be from an older instance of this patient:
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    # The newest values that are not empty:
    study_date: str
    study_time: str
    accession_number: str
    study_description: str
    modalities: list[str]
    series: int
    instances: int
    size_bytes: int
    first_arrival: datetime
    last_arrival: datetime
    last_use: datetime
    pinned: bool
    arriving: bool  # the last instance of the study arrived less than `settle` seconds ago


class Series(Value, frozen=True, kw_only=True):
    """A series of a study in the cache."""

    series_instance_uid: str
    modality: str
    series_description: str
    body_part_examined: str
    instances: int
    size_bytes: int


class StudyPatient(Value, frozen=True, kw_only=True):
    """A patient of the instances of a study."""

    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    instances: int


class StudyDetail(Value, frozen=True, kw_only=True):
    """A study with its series and its patients; the patient of the newest instance is the first."""

    study: Study
    series: list[Series]
    patients: list[StudyPatient]


class KeptInstance(Value, frozen=True, kw_only=True):
    """An instance in the cache."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    received_at: datetime


class Patients(Value, frozen=True, kw_only=True):
    """A page of patients."""

    items: list[Patient]
    total: int
    limit: int
    offset: int


class Studies(Value, frozen=True, kw_only=True):
    """A page of studies."""

    items: list[Study]
    total: int
    limit: int
    offset: int


class Instances(Value, frozen=True, kw_only=True):
    """A page of instances."""

    items: list[KeptInstance]
    total: int
    limit: int
    offset: int


class StudyFilter(Value, frozen=True, kw_only=True):
    """Conditions for studies, case-insensitive; "" matches everything. Texts may have the wildcards `*` and `?`."""

    ae_title: str = ""
    study_instance_uid: str = ""
    patient_id: str = ""
    patient_name: str = ""
    study_date: str = ""  # a date YYYYMMDD, or a range: 20250101-20251231, 20250101-, -20251231
    accession_number: str = ""
    study_description: str = ""
    modality: str = ""
    pinned: bool | None = None


class PageRequest(Value, frozen=True, kw_only=True):
    """The part of the matches that the response contains."""

    limit: int = 100
    offset: int = 0


# --- requests ---------------------------------------------------------------------------------------------------------


class PatientRef(Value, frozen=True, kw_only=True):
    """A patient. The job contains all studies of the patient."""

    patient_id: Annotated[str, Meta(min_length=1, max_length=LONGEST_TEXT)]
    issuer_of_patient_id: Text = ""


class Order(Value, frozen=True, kw_only=True):
    """A job to compose: the selected objects, the pipeline, and whether to keep the instances afterwards."""

    pipeline: Name
    name: Name
    ae_title: AeTitle | None = None
    priority: JobPriority = JobPriority.NORMAL
    patients: list[PatientRef] = field(default_factory=list)
    studies: list[Uid] = field(default_factory=list)
    series: list[Uid] = field(default_factory=list)
    instances: list[Uid] = field(default_factory=list)
    submitter: Name | None = None
    metadata: dict[Name, Text] = field(default_factory=dict)
    # False: delete the job's instances when it is submitted; if the submitter follows jobs, when it has succeeded.
    keep: bool = True
    insist: bool = False  # True: compose even if a study is still arriving
    mix_patients: bool = False  # True: compose even if the instances of a study disagree about the patient


class JobStatus(Value, frozen=True, kw_only=True):
    """The current state of a composed job."""

    job_id: str
    name: str
    ae_title: str
    pipeline_id: str
    priority: JobPriority
    submitter: str
    state: str
    instances: int
    created_at: datetime
    changed_at: datetime
    attempts: int
    last_error: str
    platform_job_id: str
    platform_state: str


class Jobs(Value, frozen=True, kw_only=True):
    """The most recent composed jobs."""

    items: list[JobStatus]


class Pinned(Value, frozen=True, kw_only=True):
    """Result of pinning or unpinning a study; neither age nor size evicts a pinned study."""

    study_instance_uid: str
    pinned: bool


def job_status(job: Job) -> JobStatus:
    """Return the status of a job."""
    return JobStatus(
        job_id=job.job_id,
        name=job.name,
        ae_title=job.ae_title,
        pipeline_id=job.pipeline_id,
        priority=job.priority,
        submitter=job.submitter,
        state=job.state.value,
        instances=job.instance_count,
        created_at=job.created_at,
        changed_at=job.changed_at,
        attempts=job.attempts,
        last_error=job.last_error,
        platform_job_id=job.platform_job_id,
        platform_state=job.platform_state,
    )


def selects_nothing(order: Order) -> bool:
    """Return whether an order names no object at all."""
    chosen: Sequence[Sequence[object]] = (order.patients, order.studies, order.series, order.instances)
    return not any(chosen)
