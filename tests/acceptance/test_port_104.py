"""The standard port of DICOM without root: with the only permission that the drop-in for systemd gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_adapter.service.launch import ServiceEnded
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE

CONFIGURATION = f'{STORAGE}[ae-titles.LUNG.settings]\npipeline-a = "a"\n'
# A network of its own, so that the port is free; `noroot`: the user id 0 has no permissions beyond the given ones.
PYTHON = """#!/bin/sh
exec unshare --net setpriv --securebits=+noroot --no-new-privs --bounding-set={kept} --inh-caps={kept} \
  --ambient-caps={kept} {python} "$@"
"""


@pytest.fixture
def restricted(tmp_path: Path) -> Path:
    """Return a folder for interpreters that run without permissions. Skip the test where that is not possible."""
    needed = [shutil.which("unshare"), shutil.which("setpriv")]
    if None in needed or os.geteuid() != 0 or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        pytest.skip("a network namespace needs root, unshare and setpriv")
    return tmp_path


def interpreter(folder: Path, kept: str) -> str:
    path = folder / "python"
    path.write_text(PYTHON.format(kept=kept, python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_the_service_listens_on_port_104_with_one_permission(restricted: Path, launch_service: LaunchService) -> None:
    """Verified to fail when the permission is not inherited (`--ambient-caps`)."""
    python = interpreter(restricted, "-all,+net_bind_service")
    service = launch_service(CONFIGURATION, "--port", "104", python=python)
    assert 104 == service.port()
    assert 0 == service.stop()


def test_without_the_permission_the_message_names_it(restricted: Path, launch_service: LaunchService) -> None:
    service = launch_service(CONFIGURATION, "--port", "104", python=interpreter(restricted, "-all"))
    with pytest.raises(ServiceEnded, match="CAP_NET_BIND_SERVICE"):
        service.port()
