"""Clients of the adapter, each in a process of its own, until its standard input ends."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

STOP_SECONDS = 60.0
TESTS = Path(__file__).resolve().parent.parent


class Client:
    """A process that runs a module of this package, and writes what it does into `<name>.jsonl`."""

    def __init__(self, module: str, folder: Path, name: str, seed: str) -> None:
        self.record = folder / f"{name}.jsonl"
        self._command = [sys.executable, "-m", f"faults.{module}", "--folder", str(folder)]
        self._command += ["--name", name, "--seed", f"{seed}/{name}"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, port: int, *more: str) -> None:
        """Have it begin; `port`: of the adapter, `more`: further options."""
        with self.record.with_suffix(".log").open("wb") as log:
            command = [*self._command, "--port", str(port), *more]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, cwd=TESTS)

    def tell_to_stop(self) -> None:
        """Let it finish what it does."""
        assert self._process is not None  # it was started
        assert self._process.stdin is not None  # it is a pipe
        self._process.stdin.close()

    def wait(self) -> int:
        """Its exit status."""
        assert self._process is not None  # it was started
        return self._process.wait(STOP_SECONDS)

    def end(self) -> None:
        """Leave nothing behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def work(make: Callable[..., Any], description: str | None, **more: Callable[[str], Any]) -> None:
    """In the process: `make` the client as the command line says, and let it run. `more`: further options."""
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
