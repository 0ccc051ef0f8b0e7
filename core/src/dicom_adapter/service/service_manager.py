"""Notifications to the service manager, such as systemd: datagrams to the socket in NOTIFY_SOCKET (sd_notify(3)).

Without such a socket, nothing is sent. The variables are deleted from the environment, because the processes of the
service, and the commands of jobs, must not notify.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

import structlog
from attrs import frozen

log = structlog.get_logger("dicom_adapter.service")

BEAT_SECONDS = 5.0  # the longest time between two checks of the supervisor's processes
PINGS_PER_TIMEOUT = 3.0  # sd_watchdog_enabled(3) recommends at least 2
SEND_SECONDS = 5.0  # time limit for a service manager that is busy
STOP_MARGIN_SECONDS = 30.0  # more than a stop takes; the watchdog must not interrupt it
MICROSECONDS = 1_000_000


@frozen(kw_only=True)
class ServiceManager:
    """The service manager that started this process. Thread-safe."""

    address: str = ""  # path of the socket, or a name that begins with "@"; "": nobody is notified
    watchdog_seconds: float | None = None  # the service counts as hung without a ping for so long; None: no watchdog

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """Return the service manager that the environment names, and delete its variables."""
        address = environment.pop("NOTIFY_SOCKET", "")
        timeout, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        if address and address[0] not in "/@":
            log.warning("service_manager_unknown", problem="NOTIFY_SOCKET is neither a path nor an abstract address")
            address = ""
        is_watched = timeout.isdecimal() and int(timeout) > 0 and pid in ("", str(os.getpid()))
        return cls(address=address, watchdog_seconds=int(timeout) / MICROSECONDS if is_watched else None)

    @property
    def beat_seconds(self) -> float:
        """The time between two pings, also without a watchdog."""
        if self.watchdog_seconds is None:
            return BEAT_SECONDS
        return min(BEAT_SECONDS, self.watchdog_seconds / PINGS_PER_TIMEOUT)

    def ready(self, status: str = "") -> None:
        """Report that the service works: after its start, and after a reload."""
        self._send("READY=1", *([f"STATUS={status}"] if status else []))

    def reloading(self) -> None:
        """Report that a reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, seconds: float) -> None:
        """Report that the service stops, which takes up to `seconds`. No pings are sent meanwhile."""
        longer = []
        if self.watchdog_seconds is not None:
            longer = [f"WATCHDOG_USEC={round((seconds + STOP_MARGIN_SECONDS) * MICROSECONDS)}", "WATCHDOG=1"]
        self._send("STOPPING=1", *longer)

    def ping(self) -> None:
        """Report to the watchdog that the service works."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(SEND_SECONDS)
                connection.sendto("\n".join(assignments).encode(), address)
        except OSError as failure:  # the service works without its manager
            log.warning("service_manager_unreachable", message=assignments[0], error=failure.strerror or "timed out")
