"""Instances that the test suite for processors sends, and summaries of the resulting jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import frozen
from pydicom.dataset import Dataset

from dicom_adapter.api.counts import counted
from dicom_adapter.api.values import AssociationStatus, Job
from dicom_adapter.dicom.synthetic import make_instance, make_study
from dicom_adapter.testing.adapter import Adapter

# Patient data, which must not appear in any output
PATIENT_ID = "NOBODY-4711"
PATIENT_NAME = "Nobody^Norbert"
_PATIENT: dict[str, Any] = {"patient_id": PATIENT_ID, "patient_name": PATIENT_NAME, "accession_number": PATIENT_ID}


# Arguments of `Adapter.receive` for ends of associations: each kind of interruption, a normal release, and no end yet
ENDS: Sequence[Mapping[str, Any]] = (
    {"failed": {"OUT_OF_RESOURCES": 2}},
    {"status": AssociationStatus.ABORTED},
    {"status": AssociationStatus.OPEN, "failed": {"CANNOT_UNDERSTAND": 1}},
    {},
    {"status": AssociationStatus.LOST, "cut_off": 1},
    {"status": AssociationStatus.OPEN},
)


@frozen
class Arrival:
    """Instances that arrive in one association."""

    at: float  # seconds since the adapter's start
    data_sets: Sequence[Dataset]


@frozen(kw_only=True)
class JobSummary:
    """A job without the values that differ between runs."""

    at: datetime  # time of the submission
    name: str
    pipeline_id: str
    priority: str
    instances: Sequence[str]  # SOP Instance UIDs, in the job's order
    metadata: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S.%f} {self.name} for {self.pipeline_id}: {counted(len(self.instances), 'instance')}"


def usual_traffic(modality: str) -> list[Arrival]:
    """Return two interleaved studies of one patient, one study of another patient, and one late study."""
    first = make_study(modality=modality, seed="suite first", series=2, instances=2, **_PATIENT)
    second = make_study(modality=modality, seed="suite second", instances=2, **_PATIENT)
    other = make_study(modality=modality, seed="suite other", instances=3, patient_id="Ünïcödé 患者")
    late = make_study(modality=modality, seed="suite late", instances=2, **_PATIENT)
    return [
        Arrival(0.0, first[:2]),
        Arrival(0.0, other[:1]),
        Arrival(1.25, second),
        Arrival(3.0, first[2:3]),
        Arrival(3.0, other[1:]),
        Arrival(4.5, first[3:]),
        Arrival(90.0, late),
    ]


def malformed_traffic(modality: str) -> list[Arrival]:
    """Return instances with missing, empty and malformed values, as some hospitals send them."""
    values = ["", " ", "..", "../../etc/passwd", "/etc/hostname", "名前^患者", "a\\b", "%s{0}$(id)`", "x" * 64]
    arrivals = [
        Arrival(float(number), [make_instance(modality=modality, seed=f"malformed {number}", patient_id=value)])
        for number, value in enumerate(values)
    ]
    nameless = make_instance(modality=modality, seed="nameless", patient_id="")
    for keyword in ("PatientID", "AccessionNumber", "StudyDescription", "SeriesDescription", "StudyDate", "Modality"):
        delattr(nameless, keyword)
    return [*arrivals, Arrival(20.0, [nameless])]


def summarize_jobs(adapter: Adapter, ae_title: str) -> list[JobSummary]:
    """Return the jobs of an AE title in a reproducible order."""
    summaries = [_summarize(adapter, job) for job in adapter.jobs if job.ae_title == ae_title]
    return sorted(summaries, key=lambda job: (job.at, job.pipeline_id, job.name, tuple(job.instances)))


def _summarize(adapter: Adapter, job: Job) -> JobSummary:
    return JobSummary(
        at=job.created_at,
        name=job.name,
        pipeline_id=job.pipeline_id,
        priority=job.priority.value,
        instances=tuple(instance.sop_instance_uid for instance in adapter.instances_of(job)),
        metadata=tuple(sorted(job.metadata.items())),
    )


def format_jobs(jobs: Sequence[JobSummary]) -> Iterator[str]:
    """Return one line for each job, for messages."""
    return (f"  {job}" for job in jobs) if jobs else iter(["  none"])
