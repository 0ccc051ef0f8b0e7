"""Tests of the observer: the lines that it writes when jobs change."""

import json
from pathlib import Path
from typing import Any

import pytest
from dicom_adapter import JobPriority, JobProcessorBase, Permanent, hookimpl
from dicom_adapter.testing import Adapter, Plugin, make_instance

from {{ cookiecutter.__module }} import VARIABLE

CONFIGURATION = """
[ae-titles.MINE]
processor = "at-once"
"""
# The jobs of this submitter end when the test calls `platform.end`, like those of `command` and `container`.
FOLLOWED = """
[submitters.mine]
type = "memory-followed"
status-every = 1
"""


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
    return CONFIGURATION


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


@pytest.mark.parametrize(("succeeded", "state"), [(True, "succeeded"), (False, "failed")])
def test_the_end_of_a_job_on_the_platform_is_written(
    make_adapter: Any, file: Path, succeeded: bool, state: str
) -> None:
    adapter = make_adapter(CONFIGURATION + FOLLOWED, Plugin(Processors()))
    adapter.receive(make_instance())
    assert not file.exists()
    adapter.platform.end(adapter.jobs[0], succeeded=succeeded)
    adapter.advance(5)
    assert states(file) == [state]


def test_without_a_file_nothing_is_written(adapter: Adapter, tmp_path: Path) -> None:
    adapter.receive(make_instance())
    assert not (tmp_path / "jobs.jsonl").exists()
