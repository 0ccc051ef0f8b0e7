"""The examples of `dicom-adapter simulate`, which use the AE Title Job Processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_adapter.cli import app

SCENARIOS = "example:scenarios"
AE_TITLE = "HEAD"  # it groups by study


def simulate(schedule: str) -> dict[str, Any]:
    """Replay a schedule of the examples. Return the JSON output."""
    result = CliRunner().invoke(app, ["simulate", SCENARIOS, schedule, "--json"])
    assert (0, "") == (result.exit_code, result.stderr)
    output: dict[str, Any] = json.loads(result.stdout)
    return output


def jobs(output: dict[str, Any]) -> list[tuple[float, str, int, list[str]]]:
    """Return time, first characters of the pipeline id, number of instances and studies of each job."""
    return [
        (entry["seconds"], entry["pipelineId"][:4], entry["instances"], entry["studies"])
        for entry in output["timeline"]
        if entry["kind"] == "job"
    ]


def test_five_studies_of_one_patient_become_three_jobs() -> None:
    """The schedule is the first scenario of the examples."""
    output = simulate("example:scenario-1")
    studies = [f"P1/{study}" for study in "ABCDE"]
    assert [(104.0, pipeline, 10, studies) for pipeline in ("8abf", "dd4a", "2ac1")] == jobs(output)
    assert {"reclaimed": 10} == output["instances"]


def test_each_study_becomes_a_job_and_each_arrival_restarts_the_wait() -> None:
    """The schedule is the second scenario of the examples."""
    first = [(5.0, "51c7", 4, [f"P1/{study}"]) for study in "ABC"]
    assert [*first, (73.0, "51c7", 4, ["P2/D"])] == jobs(simulate("example:scenario-2"))


@pytest.mark.parametrize(
    ("refused_and_end", "job_at", "interrupted"),
    [
        ("0,released", 5.0, ""),
        ("0,aborted", 60.0, "was aborted"),
        ("0,lost", 60.0, "was lost"),
        ("0,cut-off", 600.0, "1 data set cut off"),
        ("3,released", 600.0, "3 C-STOREs failed"),
    ],
)
def test_a_schedule_can_interrupt_an_association(
    tmp_path: Path, refused_and_end: str, job_at: float, interrupted: str
) -> None:
    """The group waits as after a real association. A sender that returns after three seconds completes it.

    Verified to fail when all associations of a schedule are released.
    """
    schedule, head = tmp_path / "schedule.csv", "time,ae-title,patient,study,count,over,refused,end\n"
    schedule.write_text(f"{head}0,{AE_TITLE},P1,A,2,0.5,{refused_and_end}\n")
    [job] = jobs(output := simulate(str(schedule)))
    assert (job_at + 0.5, 2) == (job[0], job[2])
    assert interrupted in "".join(entry.get("problem", "") for entry in output["timeline"])
    schedule.write_text(f"{head}0,{AE_TITLE},P1,A,2,0.5,{refused_and_end}\n3,{AE_TITLE},P1,A,3,0,,\n")
    assert [(8.0, 5)] == [(job[0], job[2]) for job in jobs(simulate(str(schedule)))]
