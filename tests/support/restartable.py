"""A program that a test kills, stops for a while, and starts again."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from random import SystemRandom

BELOW_EPHEMERAL_PORTS = range(20_000, 32_768)  # ports that Linux does not assign automatically
SECONDS = 30.0  # time limit of the end of a program


class RestartableProcess:
    """A program: one process at a time. What it prints is appended to a file."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Return whether the process exists. It may be stopped."""
        return self._process is not None and self._process.poll() is None

    def launch(self, *command: object) -> None:
        """Start the program. It must not be running."""
        assert not self.is_running, "the program is running"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C ends the test, which ends the program
            )

    def pause(self) -> None:
        """Send SIGSTOP: the system still accepts connections and bytes, and the program does not answer."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end. Idempotent."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(SECONDS)

    def stop(self) -> None:
        """Send SIGTERM, and wait for the end. After a time limit, kill the program."""
        self._send(signal.SIGTERM)
        self.resume()
        try:
            if self._process is not None:
                self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # does nothing if the process has ended


def free_ports(number: int) -> list[int]:
    """Return free ports for programs that are restarted: no other program gets them automatically meanwhile."""
    candidates = SystemRandom().sample(BELOW_EPHEMERAL_PORTS, 100)
    return [port for port in candidates if _is_free(port)][:number]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
