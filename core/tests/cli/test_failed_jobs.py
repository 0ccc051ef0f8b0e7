"""Commands for jobs that the platform has run without success: text, retry, and the log of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_adapter import Job, JobState, Permanent, Retriable
from dicom_adapter.cli import app
from dicom_adapter.operations import job_log
from dicom_adapter.testing import Adapter, make_instance

CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[submitters.platform]
type = "memory-followed"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-one = "p1" }
"""


@pytest.fixture
def adapter(make_adapter: Callable[..., Adapter], tmp_path: Path) -> Adapter:
    """Return an adapter with one failed job."""
    (tmp_path / "adapter.toml").write_text(CONFIGURATION, encoding="utf-8")
    adapter = make_adapter(CONFIGURATION)
    adapter.receive(make_instance())
    adapter.advance(6)
    adapter.platform.end(adapter.jobs[0], succeeded=False, detail="exit status 3")
    adapter.advance(10)
    return adapter


def run(tmp_path: Path, *words: str, status: int = 0) -> str:
    arguments = [*words, "-c", str(tmp_path / "adapter.toml")]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert status == result.exit_code, result.output
    return " ".join(result.output.split())


def test_a_failed_job_is_shown_with_its_reason_and_the_commands(adapter: Adapter, tmp_path: Path) -> None:
    name = adapter.jobs[0].job_id[:8]
    shown = run(tmp_path, "jobs", "show", name)
    assert "problem failed: it ended in state 'failed': exit status 3" in shown
    assert f"`dicom-adapter jobs show {name} --log" in shown
    assert f"then `dicom-adapter jobs retry {name}" in shown


def test_the_command_for_the_log_is_shown_once(make_adapter: Callable[..., Adapter], tmp_path: Path) -> None:
    """The reason of the submitters on this machine has it already, but without the configuration file.

    Verified to fail when the next step has it as well.
    """
    (tmp_path / "adapter.toml").write_text(CONFIGURATION, encoding="utf-8")
    adapter = make_adapter(CONFIGURATION)
    adapter.receive(make_instance())
    adapter.advance(6)
    (job,) = adapter.jobs
    detail = f"exit status 3; see `dicom-adapter jobs show {job.job_id} --log`"
    adapter.platform.end(job, succeeded=False, detail=detail)
    adapter.advance(10)
    listed = run(tmp_path, "jobs", "list")
    assert 1 == listed.count("--log")
    assert f"jobs show {job.job_id} --log -c {tmp_path}" in listed
    assert 1 == run(tmp_path, "explain", job.job_id).partition("is failed and keeps")[2].count(
        "`dicom-adapter jobs retry"
    )
    assert "To see its log" not in run(tmp_path, "explain", job.job_id)


def test_all_failed_jobs_are_run_again(adapter: Adapter, tmp_path: Path) -> None:
    assert "will be retried" in run(tmp_path, "jobs", "retry", "--all", "--state", "failed")
    adapter.advance(10)
    job = adapter.jobs[0]
    assert (JobState.RUNNING, 2) == (job.state, job.run)
    shown = run(tmp_path, "jobs", "show", job.job_id)
    assert "run 2 state running since" in shown
    assert "next runs on the platform since" in shown
    assert "is running: only faulted, failed and postponed jobs can be retried" in run(
        tmp_path, "jobs", "retry", job.job_id, status=1
    )


def test_files_that_the_platform_has_not_deleted_yet_are_shown(adapter: Adapter, tmp_path: Path) -> None:
    """With the last error and the time of the next attempt; nothing is shown after the clean-up."""
    (job,) = adapter.jobs
    run(tmp_path, "jobs", "retry", job.job_id)
    assert "clean-up the files of run 1 on the platform will be deleted" in run(tmp_path, "jobs", "show", job.job_id)
    adapter.platform.fail("clean_up", Retriable("busy"))
    adapter.advance(0)
    shown = run(tmp_path, "jobs", "show", job.job_id)
    assert "clean-up the files of run 1 on the platform are not deleted yet; attempt 1 failed: busy; next" in shown
    (waiting,) = json.loads(run(tmp_path, "jobs", "show", job.job_id, "--json"))["cleanUps"]
    assert (1, 1, "busy") == (waiting["run"], waiting["attempts"], waiting["lastError"])
    adapter.advance(60)
    assert "clean-up" not in run(tmp_path, "jobs", "show", job.job_id)


def test_the_story_names_files_that_the_platform_refused_to_delete(adapter: Adapter, tmp_path: Path) -> None:
    (job,) = adapter.jobs
    adapter.platform.fail("clean_up", Permanent("the payload is locked"))
    run(tmp_path, "jobs", "retry", job.job_id)
    adapter.advance(10)
    story = run(tmp_path, "explain", "--study", adapter.instances_of(job)[0].study_instance_uid)
    assert f"The platform refused to delete the files of job {job.job_id[:8]}: the payload is locked." in story


def test_the_story_of_a_failed_job_has_its_reason_and_its_log(adapter: Adapter, tmp_path: Path) -> None:
    (job,) = adapter.jobs
    story = run(tmp_path, "explain", "--study", adapter.instances_of(job)[0].study_instance_uid)
    assert "failed on the platform: it ended in state 'failed': exit status 3" in story
    assert f"To see its log, run `dicom-adapter jobs show {job.job_id[:8]} --log" in story


class _Submitter:
    def __init__(self, found: object) -> None:
        self.found = found

    def log(self, _job: Job) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found if self.found is None else BytesIO(self.found)  # type: ignore[arg-type] # bytes


@pytest.mark.parametrize(
    ("log", "options", "expected"),
    [
        (b"first\nsecond\r\nthird", ("--lines", "2"), "second third"),
        (b"\x1b[31mred\x1b[0m\tM\xc3\xbcller \xff\n", (), "\\x1b[31mred\\x1b[0m Müller \ufffd"),
        (b"x" * 5_000_000 + b"\nend", (), "x" * 2000 + " … end"),
        (b"", (), ""),
    ],
)
def test_the_log_is_bounded_and_harmless(
    adapter: Adapter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: bytes,
    options: tuple[str, ...],
    expected: str,
) -> None:
    """A pipeline may write anything, for example escape sequences that change the terminal, or a line without end."""
    set_log(monkeypatch, log)
    assert expected == run(tmp_path, "jobs", "show", adapter.jobs[0].job_id, "--log", *options)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, "has no log: its submitter keeps none, or the job has not been started"),
        (Permanent("the platform has deleted it"), "the log cannot be read: the platform has deleted it"),
        (ZeroDivisionError("Müller"), "bug in submitter 'platform': ZeroDivisionError at"),
    ],
)
def test_a_log_that_cannot_be_shown_is_an_error(
    adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: object, expected: str
) -> None:
    set_log(monkeypatch, found)
    shown = run(tmp_path, "jobs", "show", adapter.jobs[0].job_id, "--log", status=1)
    assert expected in shown
    assert "Müller" not in shown


def set_log(monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    """Let the submitter of the job return `found` as its log, or raise it."""
    monkeypatch.setattr(job_log, "make_submitter", lambda *_: _Submitter(found))
    monkeypatch.setattr(job_log, "is_available", lambda *_: True)
