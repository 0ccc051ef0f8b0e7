"""The table of `jobs list`."""

from __future__ import annotations

import io
from datetime import datetime, timezone

import pytest
from attrs import evolve
from rich.console import Console

from dicom_adapter import Job, JobPriority, JobState
from dicom_adapter.cli.jobs import JobTable

NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)
JOB = Job(
    job_id="95d3096759ac4324841a7cacc44d6f3c",
    name="LUNG-lung-20260105080000",
    ae_title="LUNG",
    pipeline_id="8abf244aff7647989d4f6b3987a85759",
    priority=JobPriority.NORMAL,
    submitter="platform",
    instance_count=500,
    created_at=NOW,
    changed_at=NOW,
)


def printed(*jobs: Job, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(JobTable(jobs))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_job_is_one_line_and_its_error_a_second_line() -> None:
    """A long error is cut at the width of 80 columns.

    Verified to fail when a column has no `no_wrap` (then the error has more lines).
    """
    error = "the platform does not answer;\nwhat it said is long " * 5
    troubled = evolve(JOB, state=JobState.METADATA_SENT, attempts=3, next_attempt_at=NOW, last_error=error)
    assert [
        "Job       Name                      Pipeline   Priority   Inst.  State",
        "95d30967  LUNG-lung-20260105080000  8abf244a…  normal       500  queued",
        "95d30967  LUNG-lung-20260105080000  8abf244a…  normal       500  metadata-sent",
        "          attempt 3 failed, next at 08:00:00 UTC: the platform does not answer;…",
    ] == printed(JOB, troubled)


@pytest.mark.parametrize(("width", "name"), [(80, "N" * 25 + "…"), (120, "N" * 60)])
def test_a_long_name_is_cut_at_the_available_width(width: int, name: str) -> None:
    lines = printed(evolve(JOB, name="N" * 60, state=JobState.METADATA_SENT), width=width)
    assert name == lines[1].split()[1]
    assert max(map(len, lines)) <= width
    assert lines[1].endswith("500  metadata-sent")
