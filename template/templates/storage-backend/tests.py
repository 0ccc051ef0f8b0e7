"""Tests of the backend in an adapter, and the conformance suite."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dicom_adapter import JobPriority, JobProcessorBase, StorageBackend, hookimpl
from dicom_adapter.testing import Adapter, BaseStorageBackendTests, Plugin, make_instance
from pydicom import dcmread

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
    [storage]
    backend = "{{ cookiecutter.__plugin }}"
    path = "data"
    reserve = 0
    watermark-percent = 100
    [ae-titles.MINE]
    processor = "at-once"
    """


def test_a_stored_instance_reaches_the_platform(adapter: Adapter, tmp_path: Path) -> None:
    sent = make_instance()
    adapter.receive(sent)
    (job,) = adapter.platform.jobs.values()
    assert sent == dcmread(BytesIO(job.files[0]))
    assert list((tmp_path / "data" / "instances").glob("*.dcm")) == []


class TestConformance(BaseStorageBackendTests):
    backend = {{ cookiecutter.__class }}

    def settings(self, folder: Path) -> {{ cookiecutter.__class }}Settings:
        return {{ cookiecutter.__class }}Settings()

    def leftovers(self, storage: StorageBackend[Any]) -> int:
        return len(list((storage.context.path / "instances").iterdir()))

    @pytest.fixture
    def no_space(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[StorageBackend[Any]], AbstractContextManager[None]]:
        def full(*_arguments: Any, **_options: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        @contextmanager
        def without_space(storage: StorageBackend[Any]) -> Iterator[None]:
            with monkeypatch.context() as patch:
                patch.setattr(os, "open", full)
                yield

        return without_space
