"""Commands name the limit for which jobs wait."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_adapter import JobState
from dicom_adapter.cli import app
from dicom_adapter.ledger import health
from dicom_adapter.ledger.health import PartHealth
from dicom_adapter.runtime.parts import Part, PartKind
from dicom_adapter.testing import Adapter, make_instance

CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[submitters.gpu]
type = "memory-followed"
running = 2
parallel = 1
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-one = "p1" }
"""
PLATFORM = Part(PartKind.PLATFORM, "gpu")
REASON = "2 of 2 jobs of submitter gpu are running"


@pytest.fixture
def adapter(make_adapter: Callable[..., Adapter], memory_submitter: None, tmp_path: Path) -> Adapter:
    """Return an adapter with two running jobs, one that is uploaded, and one that is queued."""
    (tmp_path / "adapter.toml").write_text(CONFIGURATION, encoding="utf-8")
    adapter = make_adapter(CONFIGURATION)
    adapter.receive(*(make_instance(seed=str(number)) for number in range(4)))
    adapter.advance(10)
    return adapter


def report(adapter: Adapter, age: timedelta = timedelta()) -> None:
    """Write the health of the platform as the watch of the host does."""
    found = adapter.host.findings()[PLATFORM]
    now = datetime.now(timezone.utc) - age
    part = PartHealth(part=str(PLATFORM), state=found.state, reason=found.reason, since=now, seen_at=now)
    with adapter.ledger.write() as transaction:
        health.save(transaction, [part])


def run(tmp_path: Path, *words: str) -> str:
    result = CliRunner().invoke(app, [*words, "-c", str(tmp_path / "adapter.toml")], env={"COLUMNS": "80"})
    assert result.exit_code in (0, 3), result.output  # 3: `status`, because no service runs
    return " ".join(result.output.split())


def test_jobs_that_wait_for_the_limit_name_it(adapter: Adapter, tmp_path: Path) -> None:
    """Verified to fail when the queue does not report the limit."""
    report(adapter)
    shown = {job.state: run(tmp_path, "jobs", "show", job.job_id) for job in adapter.jobs}
    assert {JobState.RUNNING, JobState.UPLOADED, JobState.QUEUED} == shown.keys()
    assert [False, True, True] == [f"next waits: {REASON}" in text for _state, text in sorted(shown.items(), key=order)]
    (waiting,) = [job for job in adapter.jobs if job.state is JobState.UPLOADED]
    assert f"is uploaded and waits: {REASON}." in run(tmp_path, "explain", waiting.job_id)
    assert f"waiting 2 jobs wait: {REASON}" in run(tmp_path, "status")
    expected = [{"submitter": "gpu", "jobs": 2, "reason": REASON}]
    assert expected == json.loads(run(tmp_path, "status", "--json"))["waitingJobs"]


def order(item: tuple[JobState, str]) -> int:
    return [JobState.RUNNING, JobState.UPLOADED, JobState.QUEUED].index(item[0])


def test_a_limit_of_the_past_is_not_named(adapter: Adapter, tmp_path: Path) -> None:
    """The service has ended without an orderly stop, or jobs have ended since then."""
    report(adapter, age=timedelta(minutes=1))
    assert "next step: create it on the platform" in run(tmp_path, "jobs", "list", "--state", "queued")
    assert REASON not in run(tmp_path, "status")
    for _round in range(2):  # the jobs that waited begin to run
        for job in adapter.jobs:
            if job.state is JobState.RUNNING:
                adapter.platform.end(job)
        adapter.advance(30)
    assert "" == adapter.host.findings()[PLATFORM].reason
