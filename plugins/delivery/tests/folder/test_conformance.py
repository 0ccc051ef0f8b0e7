"""`folder` passes the conformance suite for submitters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import Submitter, SubmitterContext
from dicom_adapter.testing import BaseSubmitterTests, PlatformRecord
from dicom_adapter.testing.submitter_jobs import JobSteps, make_job, make_upload
from dicom_adapter_delivery.folder_settings import FolderName, FolderSettings
from dicom_adapter_delivery.folder_submitter import FolderSubmitter

MakeSubmitter = Callable[[], Submitter[Any]]
OnPlatform = Callable[[], Sequence[PlatformRecord]]


def record(folder: Path, metadata: Mapping[str, str], *, started: bool) -> PlatformRecord:
    return PlatformRecord(
        platform_job_id=folder.name,
        metadata=metadata,
        files=[path.read_bytes() for path in sorted(folder.glob("*.dcm"))],
        attachments={
            path.name: path.read_bytes()
            for path in folder.iterdir()
            if path.suffix != ".dcm" and path.name != "manifest.json" and not path.name.startswith(".")
        },
        started=started,
        cancelled=False,
    )


class TestFolder(BaseSubmitterTests):
    """The folders are the platform. They are named by ids, so that `start` does not change their names."""

    @pytest.fixture
    def context(self, tmp_path: Path) -> SubmitterContext:
        return SubmitterContext(name="suite", data_folder=tmp_path / "submitter")

    @pytest.fixture
    def make_submitter(self, tmp_path: Path, context: SubmitterContext) -> MakeSubmitter:
        (tmp_path / "drop").mkdir(exist_ok=True)
        settings = FolderSettings(path=tmp_path / "drop", folder_name=FolderName.ID)
        return lambda: FolderSubmitter(settings, context)

    @pytest.fixture
    def unreachable(self, tmp_path: Path, context: SubmitterContext) -> MakeSubmitter:
        return lambda: FolderSubmitter(FolderSettings(path=tmp_path / "not-mounted"), context)

    @pytest.fixture
    def on_platform(self, tmp_path: Path, context: SubmitterContext) -> OnPlatform:
        def stored_metadata(run_id: str) -> Mapping[str, str]:
            path = context.data_folder / run_id / "metadata.json"
            values: Mapping[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
            return values

        def look() -> Sequence[PlatformRecord]:
            complete = sorted((tmp_path / "drop").glob("[!.]*"))
            incomplete = sorted((tmp_path / "drop" / ".incoming").glob("*"))
            manifests = [json.loads((folder / "manifest.json").read_bytes()) for folder in complete]
            return [
                *(record(folder, stored_metadata(folder.name), started=False) for folder in incomplete),
                *(
                    record(folder, manifest["metadata"], started=True)
                    for folder, manifest in zip(complete, manifests, strict=True)
                ),
            ]

        return look

    def test_job_can_be_cancelled_in_any_state(
        self, submitter: Submitter[Any], steps: JobSteps, on_platform: OnPlatform
    ) -> None:
        """The folder of an incomplete job is deleted. A complete one stays, because a consumer may read it."""
        steps.create(submitter)
        complete = JobSteps(make_job(2, self.pipeline_id))
        complete.all(submitter, [make_upload(0, b"an instance")])
        for job in (steps.job, complete.job) * 2:
            submitter.cancel(job)
        assert [complete.job.platform_job_id] == [item.platform_job_id for item in on_platform()]
