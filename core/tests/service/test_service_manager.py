"""Notifications to the service manager over a real datagram socket (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dicom_adapter.service.service_manager import BEAT_SECONDS, ServiceManager


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(10)
        receiver.bind(str(tmp_path / "notify"))
        yield receiver


def lines(receiver: socket.socket) -> list[str]:
    return receiver.recv(4096).decode().split("\n")


def test_the_states_are_sent_as_systemd_reads_them(bound: socket.socket) -> None:
    manager = ServiceManager(address=bound.getsockname(), watchdog_seconds=30.0)
    manager.ready("listening on port 104")
    manager.ping()
    manager.reloading()
    manager.stopping(58.0)
    assert ["READY=1", "STATUS=listening on port 104"] == lines(bound)
    assert ["WATCHDOG=1"] == lines(bound)
    [reloading, time] = lines(bound)
    assert ("RELOADING=1", "MONOTONIC_USEC") == (reloading, time.partition("=")[0])
    assert ["STOPPING=1", "WATCHDOG_USEC=88000000", "WATCHDOG=1"] == lines(bound)


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(10)
        receiver.bind("")  # the kernel chooses an abstract name (unix(7))
        name = receiver.getsockname()
        ServiceManager(address="@" + name[1:].decode()).ready()
        assert ["READY=1"] == lines(receiver)


def test_without_a_watchdog_no_pings_are_sent(bound: socket.socket) -> None:
    manager = ServiceManager(address=bound.getsockname())
    manager.ping()
    manager.stopping(58.0)
    assert ["STOPPING=1"] == lines(bound)


@pytest.mark.parametrize(
    ("pid", "timeout", "expected"),
    [
        ("this process", "9000000", 9.0),
        ("", "9000000", 9.0),
        ("1", "9000000", None),
        ("this process", "", None),
        ("this process", "0", None),
    ],
)
def test_the_environment_of_the_service_manager_is_not_inherited(
    pid: str, timeout: str, expected: float | None
) -> None:
    """A watchdog for another process is ignored. Pings are sent three times as often as the timeout requires."""
    pid = pid.replace("this process", str(os.getpid()))  # not a parameter: each process of a test run has another one
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_PID": pid, "WATCHDOG_USEC": timeout, "HOME": "/"}
    manager = ServiceManager.of_environment(environment)
    assert {"HOME": "/"} == environment
    assert ServiceManager(address="/run/x", watchdog_seconds=expected) == manager
    assert (BEAT_SECONDS if expected is None else 3.0) == manager.beat_seconds


def test_a_socket_that_does_not_answer_is_logged(tmp_path: Path) -> None:
    with capture_logs() as logged:
        ServiceManager(address=str(tmp_path / "missing")).ready()
        assert "" == ServiceManager.of_environment({"NOTIFY_SOCKET": "vsock:2:1234"}).address
    assert ["service_manager_unreachable", "service_manager_unknown"] == [entry["event"] for entry in logged]
    assert ("READY=1", "No such file or directory") == (logged[0]["message"], logged[0]["error"])
