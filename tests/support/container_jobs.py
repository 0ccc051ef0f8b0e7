"""Jobs of the submitter `container` in tests: real containers, in a podman with a storage of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dicom_adapter import Job, PlatformStatus, SubmitterContext
from dicom_adapter.testing.submitter_jobs import JobSteps, make_job, make_upload
from dicom_adapter_pipelines.container.plan import EngineKind
from dicom_adapter_pipelines.container.settings import ContainerPipeline, ContainerSettings, Pull
from dicom_adapter_pipelines.container.submitter import ContainerSubmitter
from dicom_adapter_pipelines.contracts import Contract
from dicom_adapter_pipelines.job_folder import JobFolder
from support.podman import BASE, Podman

DEADLINE = 60.0  # seconds; a test waits for an event, and fails after this time


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait until a condition is true; return its value."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not become true within {DEADLINE:g} seconds"
        time.sleep(0.02)  # the pause of a loop that has a condition
    return value


class Containers:
    """A submitter with configured pipelines, and its jobs."""

    def __init__(self, folder: Path, podman: Podman | None) -> None:
        self.folder, self._podman = folder, podman
        self.context = SubmitterContext(name="local", data_folder=folder / "data")
        self.settings: dict[str, Any] = {"pull": Pull.NEVER}
        if podman is not None:
            self.settings |= {"engine": EngineKind.PODMAN, "engine_options": podman.options}
        self.configured: dict[str, ContainerPipeline] = {}
        self.jobs: list[Job] = []

    @property
    def podman(self) -> Podman:
        assert self._podman is not None, "the test has no podman"
        return self._podman

    def submitter(self) -> ContainerSubmitter:
        """Return a submitter like one after a restart of the service."""
        settings = ContainerSettings(**self.settings, pipelines=dict(self.configured))
        return ContainerSubmitter(settings, self.context)

    def configure(self, script: str | None = None, **settings: Any) -> None:
        """Configure the pipeline `lung`: a shell script in the base image, or the given settings."""
        if script is not None:
            settings = {"image": BASE, "command": ("/bin/sh", "-c", script), **settings}
        if "contract" in settings:
            settings["contract"] = Contract(settings["contract"])
        self.configured["lung"] = ContainerPipeline(**{"grace": 0.2, **settings})

    def job(self, number: int, files: int = 1) -> Job:
        return make_job(number, "lung", instance_count=files)

    def prepare(self, number: int = 1, files: int = 1) -> JobSteps:
        """Do the steps of a job before the start, and return them."""
        submitter = self.submitter()
        steps = JobSteps(self.job(number, files))
        self.jobs.append(steps.job)
        steps.create(submitter)
        steps.describe(submitter)
        steps.upload(submitter, *(make_upload(position, f"{position}".encode()) for position in range(files)))
        return steps

    def start(self, number: int = 1, files: int = 1) -> Job:
        """Start a job, and return it."""
        steps = self.prepare(number, files)
        steps.start(self.submitter())
        return steps.job

    def end(self, job: Job) -> PlatformStatus:
        """Wait for the end of a job."""

        def finished() -> PlatformStatus | None:
            status = self.submitter().status(job)
            return status if status.finished and not self.of(job).is_running else None

        return wait_until(finished, "the end of the job")  # type: ignore[no-any-return] # a status

    def run(self, script: str | None = None, **settings: Any) -> PlatformStatus:
        """Configure a pipeline, and run a job to its end."""
        self.configure(script, **settings)
        return self.end(self.start(len(self.jobs) + 1))

    def of(self, job: Job) -> JobFolder:
        """Return the folder of a job."""
        return self.submitter().folders.of(job.run_id)

    def log(self, job: Job | None = None) -> str:
        log = self.submitter().log(job or self.jobs[-1])
        assert log is not None, "the job has no log"
        with log:
            return log.read().decode()

    def output(self, name: str, job: Job | None = None) -> str:
        """Wait for a file that a container writes, and return its content."""
        path = self.of(job or self.jobs[-1]).output / name
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"), f"the file {name}")
        return path.read_text()

    def container(self, job: Job) -> str:
        """Return the name of the container of a job."""
        return f"dicom-adapter-{job.run_id}"

    def cancel_all(self) -> None:
        for folder in self.submitter().folders.all():
            folder.mark_cancelled()
            wait_until(lambda folder=folder: not folder.is_running, "the end of a runner")


def runner_of(containers: Containers, job: Job) -> int:
    """Return the process id of the runner: the process that holds the lock of the job's folder."""
    lock = containers.of(job).lock_file.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[5].endswith(f":{lock}"):
            return int(words[4])
    raise AssertionError("no process holds the lock of the job's folder")


def clients_of(containers: Containers, job: Job) -> list[int]:
    """Return the process ids of the clients of the engine that wait for the end of the container of a job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # the process has ended
        if Path(words[0]).name == "podman" and "run" in words and containers.container(job) in words:
            found.append(int(path.parent.name))
    return found


def kill_runner(containers: Containers, job: Job) -> None:
    """Kill the runner of a job with SIGKILL, and wait for its end."""
    os.kill(runner_of(containers, job), signal.SIGKILL)
    wait_until(lambda: not containers.of(job).is_running, "the end of the runner")


def kill_clients(containers: Containers, job: Job) -> None:
    """Kill the clients of the engine with SIGKILL; the container continues."""
    clients = clients_of(containers, job)
    assert clients, "the container of the job has no client"
    for client in clients:
        os.kill(client, signal.SIGKILL)
    wait_until(lambda: not clients_of(containers, job), "the end of the clients")
