"""The examples of `dicom-adapter simulate`, which use the AE Title Job Processor."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from dicom_adapter.cli import app

SCENARIOS = "example:scenarios"


def simulate(schedule: str) -> dict[str, Any]:
    """Replay a schedule of the examples. Return the JSON output."""
    result = CliRunner().invoke(app, ["simulate", SCENARIOS, schedule, "--json"])
    assert (0, "") == (result.exit_code, result.stderr)
    output: dict[str, Any] = json.loads(result.stdout)
    return output


def jobs(output: dict[str, Any]) -> list[tuple[float, str, int, list[str]]]:
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
