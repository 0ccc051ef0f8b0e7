"""Jobs of the submitter `command` in tests: real processes, which are ended after each test."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dicom_adapter import Job, PlatformStatus, SubmitterContext
from dicom_adapter.testing.submitter_jobs import JobSteps, make_job, make_upload
from dicom_adapter_pipelines.command import CommandPipeline, CommandSettings, CommandSubmitter
from dicom_adapter_pipelines.job_folder import JobFolder

DEADLINE = 60.0  # seconds; a test waits for an event, and fails after this time


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait until a condition is true; return its value."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not become true within {DEADLINE:g} seconds"
        time.sleep(0.01)  # the pause of a loop that has a condition
    return value


def alive(process: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return b") Z " not in Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return False


def python(code: str) -> tuple[str, ...]:
    """Return a command that runs Python code; `{input}` and others are its arguments 1 to 4."""
    return (sys.executable, "-c", code, "{input}", "{output}", "{job}", "{work}")


def shell(code: str) -> tuple[str, ...]:
    """Return a command that runs a script; `$1` is the input folder, `$2` the output folder, `$4` the work folder."""
    return ("/bin/sh", "-c", code, "script", "{input}", "{output}", "{job}", "{work}")


class Pipelines:
    """A submitter with configured pipelines, and its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = SubmitterContext(name="local", data_folder=folder / "data")
        self.configured: dict[str, CommandPipeline] = {}
        self.gpus: tuple[str, ...] = ()
        self.jobs: list[Job] = []

    def submitter(self) -> CommandSubmitter:
        """Return a submitter like one after a restart of the service."""
        return CommandSubmitter(CommandSettings(pipelines=dict(self.configured), gpus=self.gpus), self.context)

    def configure(self, command: tuple[str, ...], name: str = "lung", **settings: Any) -> None:
        self.configured[name] = CommandPipeline(command=command, **{"grace": 0.2, **settings})

    def steps(self, number: int = 1, files: int = 1, **changes: Any) -> JobSteps:
        """Do the steps of a job before the start, and return them."""
        submitter = self.submitter()
        steps = JobSteps(make_job(number, "lung", instance_count=files, **changes))
        steps.create(submitter)
        steps.describe(submitter)
        steps.upload(submitter, *(make_upload(position, f"{position}".encode()) for position in range(files)))
        self.jobs.append(steps.job)
        return steps

    def start(self, number: int = 1, files: int = 1, **changes: Any) -> Job:
        """Start a job, and return it."""
        steps = self.steps(number, files, **changes)
        steps.start(self.submitter())
        return steps.job

    def end(self, job: Job) -> PlatformStatus:
        """Wait for the end of a job."""

        def finished() -> PlatformStatus | None:
            status = self.submitter().status(job)
            return status if status.finished and not self.of(job).is_running else None

        return wait_until(finished, "the end of the job")  # type: ignore[no-any-return] # a status

    def run(self, command: tuple[str, ...], **settings: Any) -> PlatformStatus:
        """Configure a pipeline, and run a job to its end."""
        self.configure(command, **settings)
        return self.end(self.start())

    def of(self, job: Job) -> JobFolder:
        """Return the folder of a job."""
        return self.submitter().folders.of(job.run_id)

    def log(self, job: Job | None = None) -> str:
        log = self.submitter().log(job or self.jobs[0])
        assert log is not None, "the job has no log"
        with log:
            return log.read().decode()

    def cancel_all(self) -> None:
        for folder in self.submitter().folders.all():
            folder.mark_cancelled()
            wait_until(lambda folder=folder: not folder.is_running, "the end of a runner")
