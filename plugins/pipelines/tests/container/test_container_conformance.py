"""The submitter `container` passes the conformance suite with real containers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import Job, Submitter, SubmitterContext
from dicom_adapter.testing import BaseSubmitterTests, PlatformRecord
from dicom_adapter_pipelines.container.plan import EngineKind
from dicom_adapter_pipelines.container.submitter import ContainerSubmitter
from dicom_adapter_pipelines.job_folder import JobFolder
from support.container_jobs import Containers

pytestmark = [pytest.mark.podman, pytest.mark.slow]

MakeSubmitter = Callable[[], Submitter[Any]]
EndJob = Callable[[Job, "Mapping[str, bytes] | None"], None]
OnPlatform = Callable[[], Sequence[PlatformRecord]]


def record(folder: JobFolder) -> PlatformRecord:
    """Return what a job folder contains."""
    manifest = json.loads(folder.manifest.read_text()) if folder.manifest.exists() else {"metadata": {}}
    files = [file.path for file in folder.uploaded()] or sorted(folder.input.rglob("*.dcm"), key=lambda path: path.name)
    return PlatformRecord(
        platform_job_id=folder.path.name,
        metadata=manifest["metadata"],
        files=[path.read_bytes() for path in files],
        started=folder.attempts_file.exists(),
        cancelled=folder.is_cancelled,
    )


# The container ends when the test writes the exit status into the file `end`.
WAIT = 'until [ -e /tmp/end ]; do sleep 0.05; done; exit "$(cat /tmp/end)"'


class TestContainer(BaseSubmitterTests):
    """The containers run until the test ends them or cancels their jobs."""

    pipeline_id = "lung"
    unknown_pipeline_id = "brain"

    @pytest.fixture
    def make_submitter(self, containers: Containers) -> MakeSubmitter:
        containers.configure(WAIT, grace=0.1, expect_results=False)
        return containers.submitter

    @pytest.fixture
    def end_job(self, containers: Containers) -> EndJob:
        def end(job: Job, outputs: Mapping[str, bytes] | None) -> None:
            folder = containers.of(job)
            for name, data in (outputs or {}).items():
                path = folder.output / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            status = folder.work / "status"
            status.write_text("3" if outputs is None else "0")
            status.replace(folder.work / "end")

        return end

    @pytest.fixture
    def on_platform(self, containers: Containers) -> OnPlatform:
        return lambda: [record(folder) for folder in containers.submitter().folders.all()]

    @pytest.fixture
    def unreachable(self, containers: Containers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSubmitter:
        """The engine does not run, and the folder for jobs cannot be created: its parent is a file."""
        client, file = tmp_path / "docker", tmp_path / "file"
        client.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon at unix:///x.' >&2; exit 1\n")
        client.chmod(0o755)
        file.touch()
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        containers.settings["engine"] = EngineKind.DOCKER
        containers.configure("true")
        context = SubmitterContext(name="local", data_folder=file / "folder")
        return lambda: ContainerSubmitter(containers.submitter().settings, context)
