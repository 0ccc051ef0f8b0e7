"""The service and its service manager, such as systemd: start, reload, watchdog and stop (sd_notify(3))."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE

CONFIGURATION = f'{STORAGE}[ae-titles.LUNG.settings]\npipeline-a = "a"\n'
SECONDS = 60  # time limit of each wait


class Manager:
    """The receiving end of the notifications."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    def wait_for(self, assignment: str) -> list[str]:
        """Wait for the next message with this assignment; return the message."""
        while assignment not in (message := self._receiver.recv(4096).decode().split("\n")):
            pass
        return message


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """Return a service manager with a watchdog, which the next service finds in its environment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(SECONDS)
        receiver.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "600000")
        yield Manager(receiver)


def test_the_service_manager_knows_the_state_of_the_service(manager: Manager, launch_service: LaunchService) -> None:
    """READY is sent when senders can connect. A reload and a stop are announced, and pings are sent all the time."""
    service = launch_service(CONFIGURATION)
    assert f"STATUS=listening on port {service.port()}" in manager.wait_for("READY=1")
    manager.wait_for("WATCHDOG=1")
    os.kill(service.pids()[0], signal.SIGHUP)
    manager.wait_for("RELOADING=1")
    manager.wait_for("READY=1")
    manager.wait_for("WATCHDOG=1")
    assert 0 == service.stop()
    manager.wait_for("STOPPING=1")
