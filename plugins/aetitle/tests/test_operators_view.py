"""Texts for operators: job names, descriptions, and waiting groups."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_adapter import JobPriority, PipelineReference, SubmitterReference, Waiting
from dicom_adapter_aetitle import dicom_adapter_processors
from dicom_adapter_aetitle.processor import AeTitleJobProcessor
from dicom_adapter_aetitle.settings import AeTitleSettings

QUIET = timedelta(seconds=5)  # the default
ON_GPU = PipelineReference(id="2", submitter=SubmitterReference("gpu"))


def test_the_plugin_provides_the_processor_aetitle() -> None:
    """The hook returns the only class, which declares its name and its settings."""
    assert [AeTitleJobProcessor] == dicom_adapter_processors()
    assert ("aetitle", AeTitleSettings) == (AeTitleJobProcessor.name, AeTitleJobProcessor.settings_type)


def test_jobs_are_named_by_ae_title_pipeline_utc_time_and_digest(new_lane: Any, instance: Any) -> None:
    """`<AE title>-<pipeline name>-<yyyyMMddHHmmss>-<six digits>`, in the order of the configuration."""
    lane = new_lane(pipelines={"lung": "p1", "a-b": "p2"})

    lane.arrive(instance(0))
    lane.run_all_timers()

    first, second = (job.name for job in lane.jobs)
    assert re.fullmatch("LUNG-lung-20240301080005-[0-9a-f]{6}", first)
    assert re.fullmatch("LUNG-a-b-20240301080005-[0-9a-f]{6}", second)


def test_names_differ_for_pipelines_with_similar_names(new_lane: Any, instance: Any) -> None:
    """A platform may ignore case and special characters, so the hexadecimal digits of the names differ, too.

    Verified to fail when the digits depend on the group only.
    """
    lane = new_lane(pipelines={"a.b": "p1", "a-b": "p2", "A-B": "p3"})

    lane.arrive(instance(0))
    lane.run_all_timers()

    assert 3 == len({job.name.lower().replace(".", "-") for job in lane.jobs})


def test_a_job_goes_to_the_submitter_of_its_pipeline(new_lane: Any, instance: Any) -> None:
    """A pipeline without a submitter uses the submitter of the AE title."""
    lane = new_lane(pipelines={"lung": "p1", "nodules": ON_GPU})

    lane.arrive(instance(0))
    lane.run_all_timers()

    assert [("p1", None), ("2", "gpu")] == [(job.pipeline_id, job.submitter) for job in lane.jobs]


def test_jobs_of_groups_that_are_due_in_the_same_second_have_different_names(new_lane: Any, instance: Any) -> None:
    """Two studies arrive at the same time: the four jobs have four names."""
    lane = new_lane(pipelines={"lung": "p1", "a-b": "p2"})

    lane.arrive(instance(0, "1.1"), instance(0, "1.2"))
    lane.run_all_timers()

    assert 4 == len(lane.jobs)
    assert 4 == len({job.name for job in lane.jobs})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"timeout": 60.0, "max_wait": 600.0, "pipelines": {"a": "1", "b": ON_GPU, "c": "3"}},
            "groups by patient, ready 60 s after the last instance (at most 600 s after the first), "
            "3 pipelines (a, b on gpu, c), priority normal",
        ),
        (
            {"pipelines": {"a": "1"}, "priority": JobPriority.IMMEDIATE},
            "groups by study, ready 5 s after the last instance, 1 pipeline (a), priority immediate",
        ),
        (
            {"pipelines": {"a": "1"}, "timeout": 7.5, "group_by": "(0008,0050)"},
            "groups by AccessionNumber, ready 7.5 s after the last instance, 1 pipeline (a), priority normal",
        ),
    ],
)
def test_one_line_describes_the_settings(new_lane: Any, settings: dict[str, Any], expected: str) -> None:
    """The description names the grouping in force, the waits, the pipelines with their submitters, and the priority."""
    assert expected == AeTitleJobProcessor.describe(new_lane(**settings).settings)


def test_waiting_shows_each_open_group_with_its_due_time(new_lane: Any, instance: Any) -> None:
    """Studies and series are named by their UIDs, with the number of instances and the due time."""
    lane = new_lane()
    first, second, third = instance(0, "1.1"), instance(1, "1.2"), instance(2, "1.1")

    lane.arrive(first, second, third)

    assert [
        Waiting(label="study 1.1", instance_count=2, until=third.received_at + QUIET),
        Waiting(label="study 1.2", instance_count=1, until=second.received_at + QUIET),
    ] == list(lane.processor.waiting())
    lane.run_all_timers()
    assert [] == list(lane.processor.waiting())


def test_waiting_shows_series_by_their_uid(new_lane: Any, instance: Any) -> None:
    """The label of a series group contains the series UID."""
    lane = new_lane(group_by="series")
    lane.arrive(instance(0, "1.1"))
    assert ["series 1.1.1"] == [waiting.label for waiting in lane.processor.waiting()]


def test_waiting_hides_the_identity_of_the_patient(new_lane: Any, instance: Any) -> None:
    """A patient's label distinguishes groups without the ID; another processor uses another label for the patient."""
    labels = []
    for _ in range(2):
        lane = new_lane(group_by="patient")
        lane.arrive(instance(0, patient_id="1"), instance(0, patient_id="2"), instance(0, patient_id="\udcff"))
        labels += [waiting.label for waiting in lane.processor.waiting()]

    assert 6 == len(set(labels))
    assert all(label.startswith("patient #") and len(label) == len("patient #01234567") for label in labels)


def test_waiting_hides_the_values_of_other_attributes(new_lane: Any, instance: Any) -> None:
    """Any attribute may identify the patient, so the label contains only its keyword."""
    header = Dataset()
    header.AccessionNumber = "A-4711"
    arrived = instance(0)
    lane = new_lane(group_by="(0008,0050)", headers={arrived.instance_id: header})

    lane.arrive(arrived)

    (waiting,) = lane.processor.waiting()
    assert waiting.label.startswith("AccessionNumber #")
    assert "4711" not in waiting.label
