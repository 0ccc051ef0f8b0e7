"""Tests of the observer: the lines that it writes when jobs change."""

import json
from pathlib import Path
from typing import Any

import pytest
from dicom_adapter import JobPriority, JobProcessorBase, Permanent, hookimpl
from dicom_adapter.testing import Adapter, Plugin, make_instance

from {{ cookiecutter.__module }} import VARIABLE


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
    return '[ae-titles.MINE]\nprocessor = "at-once"\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "jobs.jsonl"))
    return tmp_path / "jobs.jsonl"


def states(file: Path) -> list[str]:
    return [json.loads(line)["state"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_each_submitted_job_is_written(adapter: Adapter, file: Path) -> None:
    adapter.receive(make_instance(), make_instance())
    assert states(file) == ["submitted", "submitted"]


def test_a_faulted_job_is_written(adapter: Adapter, file: Path) -> None:
    adapter.platform.fail("start", Permanent("no free space"))
    adapter.receive(make_instance())
    assert states(file) == ["faulted"]


def test_without_a_file_nothing_is_written(adapter: Adapter, tmp_path: Path) -> None:
    adapter.receive(make_instance())
    assert not (tmp_path / "jobs.jsonl").exists()
