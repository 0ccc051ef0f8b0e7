"""The scenarios of the AE Title Job Processor in an adapter, from received instances to submitted jobs."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_adapter.testing import Adapter, ExpectedJob, make_instance, make_study

PATIENTS = """
[ae-titles.LUNG.settings]
timeout = 60
pipeline-lung = "p-lung"
pipeline-liver = "p-liver"
pipeline-brain = "p-brain"
"""
STUDIES = """
[ae-titles.LUNG.settings]
priority = "higher"
pipeline-lung = "p-lung"
"""
HOUR = 3600.0


def receive_five_studies(adapter: Adapter, *, restarting: bool = False) -> list[Dataset]:
    """Receive five studies of one patient, one every 11 seconds. Return their instances."""
    sent: list[Dataset] = []
    for number in range(5):
        study = make_study(instances=2, patient_id="PID-4711")
        adapter.receive(*study, at=number * 11)
        sent += study
        if restarting:
            adapter.restart()
    return sent


def expect_three_jobs(adapter: Adapter, instances: list[Dataset]) -> None:
    """Expect a job for each pipeline, 60 s after the last study, which arrived at 44 s."""
    pipelines = ("p-lung", "p-liver", "p-brain")
    adapter.expect_jobs(*[ExpectedJob(pipeline, instances=instances, at=104) for pipeline in pipelines])


@pytest.mark.parametrize("interrupted", ["not", "after every study", "at the deadline", "for an hour after it"])
def test_five_studies_of_one_patient_become_one_job_per_pipeline_despite_restarts(
    make_adapter: Any, interrupted: str
) -> None:
    """The patient is the group when a timeout is set. A restart changes neither the instances nor the times."""
    adapter = make_adapter(PATIENTS)
    sent = receive_five_studies(adapter, restarting=interrupted == "after every study")
    adapter.advance(59.999)
    assert [] == adapter.jobs
    if interrupted in ("at the deadline", "for an hour after it"):
        with adapter.down():
            adapter.advance(0.001 if interrupted == "at the deadline" else HOUR)
    adapter.advance(0.001)
    expect_three_jobs(adapter, sent)


def test_patients_of_different_issuers_become_separate_jobs(make_adapter: Any) -> None:
    """The same Patient ID from two issuers is two patients; padding makes no difference."""
    adapter = make_adapter(STUDIES + 'group-by = "patient"\n')
    first, second = make_instance(patient_id="1", issuer="HERE"), make_instance(patient_id="1", issuer="THERE")
    padded = make_instance(patient_id="1 ", issuer="HERE")
    adapter.receive(first, second, padded)
    adapter.expect_jobs(
        ExpectedJob("p-lung", instances=[first, padded], at=5), ExpectedJob("p-lung", instances=[second], at=5), by=10
    )


def test_three_studies_in_one_association_become_three_jobs_after_five_seconds(make_adapter: Any) -> None:
    """The study is the group when no timeout is set."""
    adapter = make_adapter(STUDIES)
    three = [make_study(instances=2, patient_id="PID-4711") for _number in range(3)]
    adapter.receive(*[study[number] for number in (0, 1) for study in three])
    adapter.expect_jobs(*[ExpectedJob("p-lung", instances=study, at=5) for study in three], by=10)
    assert {"higher"} == {job.priority.value for job in adapter.jobs}


@pytest.mark.parametrize("restarts", [False, True], ids=["undisturbed", "restarted"])
def test_every_arrival_restarts_the_wait_of_a_group(make_adapter: Any, restarts: bool) -> None:
    """Four instances 4 s, 3 s and 1 s apart become one job, 5 s after the last one."""
    adapter = make_adapter(STUDIES)
    study = make_study(instances=4)
    for instance, second in zip(study, (0, 4, 7, 8), strict=True):
        adapter.receive(instance, at=second)
        if restarts:
            adapter.restart()
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=13), by=20)


def test_an_instance_without_the_grouping_attribute_is_quarantined_and_the_others_are_submitted(
    make_adapter: Any,
) -> None:
    """The acknowledged instance is kept, with the reason."""
    adapter = make_adapter(STUDIES + 'group-by = "patient"\n')
    without_id, other = make_instance(patient_id=""), make_instance()
    adapter.receive(without_id, other)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=[other], at=5), by=60)
    assert {"quarantined": 1, "reclaimed": 1} == adapter.states
    [reason] = [event.detail["reason"] for event in adapter.events if event.event == "instance_quarantined"]
    assert "PatientID (0010,0020), which is missing or empty" in str(reason)
