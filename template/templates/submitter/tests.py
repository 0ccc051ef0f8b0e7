"""Tests of the submitter in an adapter, and the conformance suite."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from dicom_adapter import JobPriority, JobProcessorBase, Submitter, SubmitterContext, hookimpl
from dicom_adapter.testing import Adapter, BaseSubmitterTests, ExpectedJob, PlatformRecord, Plugin, make_instance

from {{ cookiecutter.__module }} import {{ cookiecutter.__class }}, {{ cookiecutter.__class }}Settings


class AtOnce(JobProcessorBase):  # type: ignore[type-arg] # it has no settings
    """Submit a job for each instance."""

    name = "at-once"

    def handle_instance(self, instance: Any) -> None:
        self.submit_pipeline_job("job", "pipeline-1", JobPriority.NORMAL, [instance])
        self.remove_instances([instance])


class Processors:
    @hookimpl
    def dicom_adapter_processors(self) -> list[type[AtOnce]]:
        return [AtOnce]


@pytest.fixture
def adapter_plugins() -> list[Plugin]:
    return [Plugin(Processors())]


@pytest.fixture
def adapter_configuration() -> str:
    return """
    [submitters.platform]
    type = "{{ cookiecutter.__plugin }}"
    folder = "platform"
    [ae-titles.MINE]
    processor = "at-once"
    """


def test_a_job_is_written_to_a_folder(adapter: Adapter, tmp_path: Path) -> None:
    adapter.receive(make_instance())
    adapter.expect_jobs(ExpectedJob("pipeline-1", instances=1))
    (folder,) = (tmp_path / "platform").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["00000.dcm", "metadata.json", "ready"]


class TestConformance(BaseSubmitterTests):
    @pytest.fixture
    def make_submitter(self, tmp_path: Path) -> Callable[[], Submitter[Any]]:
        context = SubmitterContext(name="platform", data_folder=tmp_path / "own")
        return lambda: {{ cookiecutter.__class }}({{ cookiecutter.__class }}Settings(folder=tmp_path / "platform"), context)

    @pytest.fixture
    def on_platform(self, tmp_path: Path) -> Callable[[], Sequence[PlatformRecord]]:
        def records() -> Sequence[PlatformRecord]:
            return [_record(folder) for folder in sorted((tmp_path / "platform").glob("*"))]

        return records


def _record(folder: Path) -> PlatformRecord:
    metadata = folder / "metadata.json"
    return PlatformRecord(
        platform_job_id=folder.name,
        metadata=json.loads(metadata.read_text(encoding="utf-8")) if metadata.exists() else {},
        files=[file.read_bytes() for file in sorted(folder.glob("*.dcm"))],
        started=(folder / "ready").exists(),
        cancelled=(folder / "cancelled").exists(),
    )
