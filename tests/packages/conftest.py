"""The packages of all distributions, built once for all tests of this folder, and wheels of the libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.built_packages import Environment, build_all, copy_of_the_sources, locked
from support.wheelhouse import libraries_of_the_projects, write_wheels


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all test processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def packages(shared_folder: Path) -> Path:
    """Return the folder with the packages of all distributions."""
    folder = shared_folder / "packages"
    with locked(folder):
        if not (folder / "SHA256SUMS").exists():
            build_all(copy_of_the_sources(shared_folder / "sources"), folder)
    return folder


@pytest.fixture(scope="session")
def wheelhouse(shared_folder: Path) -> Path:
    """Return a folder with a wheel of each library that the service needs, also for all extras, and of pip."""
    folder = shared_folder / "wheelhouse"
    with locked(folder):
        if not folder.exists():
            folder.mkdir()
            write_wheels([*libraries_of_the_projects(), "pip"], folder)
    return folder


@pytest.fixture
def environment(packages: Path, wheelhouse: Path, tmp_path: Path) -> Environment:
    """Return an empty virtual environment."""
    return Environment(tmp_path / "environment", [packages, wheelhouse])
