"""Fixtures for the tests of the whole project."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from support import Run


def find_dcmtk(program: str) -> str | None:
    """Return the first program on PATH with this name that belongs to DCMTK.

    pynetdicom installs scripts with the same names.
    """
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = shutil.which(program, path=folder)
        if path is not None:
            result = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
            if "$dcmtk" in result.stdout:
                return path
    return None


@pytest.fixture
def dcmtk() -> Run:
    """Return a function that runs one of DCMTK's clients, or skip the test without DCMTK.

    Example: `dcmtk("storescu", "-aec", "LUNG", …)`.
    """

    def run(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        path = find_dcmtk(program)
        if path is None:
            if "dcmtk" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
                pytest.fail(f"DCMTK's {program} is not installed, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
            pytest.skip(f"DCMTK's {program} is not installed")
        command = [path, *map(str, arguments)]
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60)

    return run
