"""Clients of the adapter. Each client is a separate process, and runs until its standard input is closed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

STOP_SECONDS = 60.0  # longest wait for the end of a process
TESTS = Path(__file__).resolve().parent.parent


class Client:
    """A process that runs a module of this package and records its requests in `<name>.jsonl`."""

    def __init__(self, module: str, folder: Path, name: str, seed: str) -> None:
        self.record = folder / f"{name}.jsonl"
        self._command = [sys.executable, "-m", f"faults.{module}", "--folder", str(folder)]
        self._command += ["--name", name, "--seed", f"{seed}/{name}"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, port: int, *more: str) -> None:
        """Start the process. `port`: port of the adapter. `more`: further options."""
        with self.record.with_suffix(".log").open("wb") as log:
            command = [*self._command, "--port", str(port), *more]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, cwd=TESTS)

    def request_stop(self) -> None:
        """Request that the process finishes its current work and ends."""
        assert self._process is not None  # the process was started
        assert self._process.stdin is not None  # stdin is a pipe
        self._process.stdin.close()

    def wait(self) -> int:
        """Return the exit status."""
        assert self._process is not None  # the process was started
        return self._process.wait(STOP_SECONDS)

    def end(self) -> None:
        """Kill the process if it is running."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def run_client(make: Callable[..., Any], description: str | None, **more: Callable[[str], Any]) -> None:
    """Parse the command line, call `make` with the options to create a client, and run the client in this process.

    `more`: further options of the command line.
    """
    parser = argparse.ArgumentParser(description=description)
    options = {"port": int, "folder": Path, "name": str, "seed": str, **more}
    for name, kind in options.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    stopping = threading.Event()
    threading.Thread(target=_wait_for_end, args=(stopping,), daemon=True).start()
    make(**vars(parser.parse_args())).run(stopping)


def _wait_for_end(stopping: threading.Event) -> None:
    sys.stdin.read()
    stopping.set()
