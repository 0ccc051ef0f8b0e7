"""The announcement of a running service in /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_adapter.service.announcement import Announcement, announce, find_announcement

PROGRAM = """
import sys
from dicom_adapter.service.announcement import announce
announce(sys.argv[1], "sqlite:////data/ledger.sqlite")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def announcing(path: Path) -> Iterator[int]:
    """Run a process that announces a service with this configuration file. Yield its PID."""
    program = [sys.executable, "-c", PROGRAM, str(path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        yield process.pid
        process.stdin.close()


def test_a_service_is_found_by_its_configuration_file_until_it_ends(tmp_path: Path) -> None:
    """The file need not exist. A link to the file finds the service, too."""
    path = tmp_path / "adapter.toml"
    with announcing(path) as pid:
        expected = Announcement(path=str(path), ledger_url="sqlite:////data/ledger.sqlite", pid=pid)
        assert expected == find_announcement(path)
        (tmp_path / "link.toml").symlink_to(path)
        assert expected == find_announcement(tmp_path / "link.toml")
        assert find_announcement(tmp_path / "other.toml") is None
    assert find_announcement(path) is None


def test_the_children_of_a_service_do_not_announce_it(tmp_path: Path) -> None:
    """The descriptor is closed in other programs that the process starts."""
    descriptor = announce(str(tmp_path / "adapter.toml"), "sqlite:////ledger.sqlite")
    try:
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)
