"""Core dumps hold patient data: the processes write none, unless the configuration asks for them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

CRASH = """
import os, resource
from dicom_adapter.cli import core_dumps
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # as in an environment that enables core dumps
{call}
os.abort()
"""


def writes_core_dump(folder: Path, call: str) -> bool:
    """Return whether the kernel writes a core dump of a process that calls a function and crashes."""
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", CRASH.format(call=call)], cwd=folder)
    _pid, status = os.waitpid(process.pid, 0)
    process.returncode = 0  # Popen cannot read the status again
    assert os.WIFSIGNALED(status)
    return os.WCOREDUMP(status)


def test_a_process_that_crashes_writes_no_core_dump(tmp_path: Path) -> None:
    """Verified to fail when the limit is not set."""
    if not writes_core_dump(tmp_path / "control", "pass"):
        pytest.skip("this system writes no core dumps")
    assert not writes_core_dump(tmp_path / "disabled", "core_dumps.disable()")
    assert writes_core_dump(tmp_path / "enabled", "core_dumps.disable(); core_dumps.enable()")


LIMIT = """
import resource, sys
from dicom_adapter import cli
sys.argv = ["dicom-adapter", "--version"]
try:
    cli.main()
finally:
    sys.stdout.write(str(resource.getrlimit(resource.RLIMIT_CORE)[0]))
"""


def test_every_command_disables_core_dumps() -> None:
    """Commands such as `audit` and `send` read patient data, too.

    A limit of 1 byte also disables programs that collect core dumps.

    Verified to fail when only `run` sets the limit.
    """
    done = subprocess.run([sys.executable, "-c", LIMIT], capture_output=True, text=True, check=True)
    assert "1" == done.stdout.splitlines()[-1]
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] != 1  # the test process keeps its limit
