"""Fixtures for the tests of the submitters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_jobs import Pipelines
from support.podman import NoPodman, Podman, podman_with_storage


@pytest.fixture(scope="session")
def shared_podman() -> Iterator[Podman]:
    """A real podman with a storage for all tests of this process. Skip the test if containers cannot be run."""
    try:
        with podman_with_storage() as podman:
            yield podman
    except NoPodman as reason:
        if "podman" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail(f"{reason}, and DICOM_ADAPTER_TESTS_REQUIRE requires podman")
        pytest.skip(str(reason))


@pytest.fixture
def podman(shared_podman: Podman, monkeypatch: pytest.MonkeyPatch) -> Iterator[Podman]:
    """A real podman, also for the processes that a test starts. Containers are removed after the test."""
    for name, value in shared_podman.environment.items():
        monkeypatch.setenv(name, value)
    yield shared_podman
    shared_podman.run("rm", "--force", "--all", "--time", "0", check=False)


@pytest.fixture
def pipelines(tmp_path: Path) -> Iterator[Pipelines]:
    """A submitter `command` without pipelines; its jobs are cancelled after the test."""
    made = Pipelines(tmp_path)
    yield made
    made.cancel_all()
