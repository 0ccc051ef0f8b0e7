"""The real service, real senders, and what reached the platform's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import PlatformFolder, Run

# pynetdicom installs scripts of the same names beside the interpreter.
PATH_OF_THE_SYSTEM = os.pathsep.join(
    entry
    for entry in os.environ.get("PATH", os.defpath).split(os.pathsep)
    if Path(entry).resolve() != Path(sys.executable).parent.resolve()
)


@pytest.fixture
def platform(tmp_path: Path) -> PlatformFolder:
    """What reached the platform of a service with `STORAGE`, launched under the default name."""
    return PlatformFolder(tmp_path / "service" / "platform")


@pytest.fixture
def dcmtk() -> Run:
    """Run one of DCMTK's clients: `dcmtk("storescu", "-aec", "LUNG", …)`; skips the test where it is not installed."""

    def run(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        found = shutil.which(program, path=PATH_OF_THE_SYSTEM)
        if found is None:
            if "dcmtk" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
                pytest.fail(f"DCMTK's {program} is not installed, and DICOM_ADAPTER_TESTS_REQUIRE asks for it")
            pytest.skip(f"DCMTK's {program} is not installed")
        command = [found, *map(str, arguments)]
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60)

    return run
