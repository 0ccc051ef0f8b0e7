"""The submitter `command` passes the conformance suite with real processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import Job, Submitter, SubmitterContext
from dicom_adapter.testing import BaseSubmitterTests, PlatformRecord
from dicom_adapter_pipelines.command import CommandPipeline, CommandSettings, CommandSubmitter
from dicom_adapter_pipelines.job_folder import JobFolder, JobFolders

MakeSubmitter = Callable[[], Submitter[Any]]
OnPlatform = Callable[[], Sequence[PlatformRecord]]
EndJob = Callable[[Job, Mapping[str, bytes] | None], None]


def record(folder: JobFolder) -> PlatformRecord:
    """Return what a job folder contains."""
    manifest = json.loads(folder.manifest.read_text()) if folder.manifest.exists() else {"metadata": {}}
    before_start = [file.path for file in folder.uploaded()]
    files = before_start or sorted(folder.input.rglob("*.dcm"), key=lambda path: path.name)
    return PlatformRecord(
        platform_job_id=folder.path.name,
        metadata=manifest["metadata"],
        files=[path.read_bytes() for path in files],
        started=folder.attempts_file.exists(),
        cancelled=folder.is_cancelled,
    )


# The command ends when the test writes the exit status into the file `end`.
WAIT = ("/bin/sh", "-c", 'until [ -e "$1/end" ]; do sleep 0.05; done; exit "$(cat "$1/end")"', "script", "{work}")


class TestCommand(BaseSubmitterTests):
    """The commands run until the test ends them or cancels their jobs."""

    unknown_pipeline_id = "brain"
    pipeline_id = "lung"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[Path]:
        yield tmp_path / "submitter"
        for folder in JobFolders(tmp_path / "submitter").all():
            folder.mark_cancelled()

    @pytest.fixture
    def make_submitter(self, folder: Path) -> MakeSubmitter:
        context = SubmitterContext(name="suite", data_folder=folder)
        pipeline = CommandPipeline(command=WAIT, grace=0.1, expect_results=False)
        return lambda: CommandSubmitter(CommandSettings(pipelines={"lung": pipeline}), context)

    @pytest.fixture
    def end_job(self, folder: Path) -> EndJob:
        def end(job: Job, outputs: Mapping[str, bytes] | None) -> None:
            job_folder = JobFolders(folder).of(job.run_id)
            for name, data in (outputs or {}).items():
                path = job_folder.output / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            status = job_folder.work / "status"
            status.write_text("3" if outputs is None else "0")
            status.replace(job_folder.work / "end")

        return end

    @pytest.fixture
    def on_platform(self, folder: Path) -> OnPlatform:
        return lambda: [record(job) for job in JobFolders(folder).all()]

    @pytest.fixture
    def unreachable(self, tmp_path: Path) -> MakeSubmitter:
        """The folder for jobs is below a file."""
        file = tmp_path / "file"
        file.touch()
        context = SubmitterContext(name="suite", data_folder=file / "folder")
        settings = CommandSettings(pipelines={"lung": CommandPipeline(command=WAIT)})
        return lambda: CommandSubmitter(settings, context)
