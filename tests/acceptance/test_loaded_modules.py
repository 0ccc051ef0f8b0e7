"""Modules that a running process does not need are not loaded: every process of the service runs for months."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE
from support.listening import wait_until

# Python imports a module of this name at its start. A signal then writes the names of the loaded modules to a file.
SITE = """
import os, pathlib, signal, sys

def write(*_):
    unfinished = pathlib.Path(__file__).with_name(f"{os.getpid()}.unfinished")
    unfinished.write_text("\\n".join(sys.modules))
    unfinished.rename(unfinished.with_suffix(".modules"))

signal.signal(signal.SIGUSR1, write)
"""
CONFIGURATION = f'{STORAGE}[ae-titles.LUNG.settings]\npipeline-a = "a"\n'
ONLY_FOR_COMMANDS = {"rich", "typer", "pytest"}
NOT_IN_SUPERVISOR = {
    "asyncio",
    "cattrs",
    "dicom_adapter.config",
    "dicom_adapter.ledger.connection",
    "dicom_adapter.plugins",
    "greenlet",
    "pydicom",
    "pynetdicom",
    "sqlalchemy",
    "ssl",
} | ONLY_FOR_COMMANDS


def loaded_modules(folder: Path, pid: int) -> set[str]:
    """Return the names of the modules that a process of this machine has loaded."""
    os.kill(pid, signal.SIGUSR1)
    written = folder / f"{pid}.modules"
    wait_until(written.exists)
    return set(written.read_text(encoding="utf-8").splitlines())


def test_the_running_supervisor_has_loaded_few_modules(
    launch_service: LaunchService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after it has written to the ledger: its health, and the configuration of the start."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    service = launch_service(CONFIGURATION)
    service.port()
    supervisor, *_others = service.pids()

    loaded = loaded_modules(site, supervisor)
    assert "dicom_adapter.service.supervisor" in loaded
    assert set() == loaded & NOT_IN_SUPERVISOR
