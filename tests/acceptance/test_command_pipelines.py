"""Real services that run a command for each job: the example of the documentation, and services that are killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from dicom_adapter import Job, JobState
from dicom_adapter.cli import app
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import jobs_in_ledger, send, write_study
from support.pages import DOCS, block

EXAMPLE = block("toml command pipeline", DOCS / "how-to" / "pipelines.md").text
# The command writes its start to a file, then waits for the file `release` in the folder of the configuration.
WAITING = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.local]
type = "command"
status-every = 0.2

[submitters.local.pipelines.list]
command = [
  "/bin/sh", "-c",
  "echo x >> $0/runs; until [ -e $0/release ]; do sleep 0.1; done; ls -R $1 > $2/list",
  "{folder}", "{input}", "{output}",
]

[ae-titles.LUNG.settings]
pipeline-list = "list"
"""
SECONDS = 60.0  # longest wait


def wait_until(condition: Callable[[], Any]) -> Any:
    """Wait until a condition is true; return its value."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.05)  # the pause of a loop that has a condition
    return value


def wait_for_end(service: LaunchedService) -> Job:
    """Wait for the end of the only job; return the job."""

    def find() -> Job | None:
        jobs = jobs_in_ledger(service)
        return jobs[0] if jobs and jobs[0].state in (JobState.SUCCEEDED, JobState.FAILED, JobState.FAULTED) else None

    job = wait_until(find)
    assert isinstance(job, Job)
    return job


def test_the_example_of_the_page_runs_a_command(launch_service: LaunchService, tmp_path: Path) -> None:
    """The job succeeds; then its files are deleted, except the log."""
    configuration = EXAMPLE.replace('path = "data"', 'path = "data"\nwatermark-percent = 100\nreserve = 0')
    service = launch_service(configuration)
    assert all(result.ok for result in send(write_study(tmp_path / "study"), service, "LUNG"))
    job = wait_for_end(service)
    assert (JobState.SUCCEEDED, "") == (job.state, job.last_error)
    command = ["jobs", "show", job.job_id, "--log", "--config", str(service.configuration)]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    assert "[dicom-adapter] succeeded" in shown.output
    folder = service.configuration.parent / "data" / "submitters" / b"local".hex() / "jobs" / job.run_id
    wait_until(lambda: not (folder / "input").exists())  # after the results are stored


def test_command_runs_once_although_the_service_is_killed(launch_service: LaunchService, tmp_path: Path) -> None:
    """The whole service is killed while the command runs; the command continues, and its result is collected."""
    folder = tmp_path / "service"
    configuration = WAITING.replace("{folder}", str(folder))
    service = launch_service(configuration)
    assert all(result.ok for result in send(write_study(tmp_path / "study"), service, "LUNG"))
    wait_until((folder / "runs").exists)
    service.kill()
    (folder / "release").touch()
    restarted = launch_service(configuration)
    assert JobState.SUCCEEDED == wait_for_end(restarted).state
    assert ["x"] == (folder / "runs").read_text().split()
