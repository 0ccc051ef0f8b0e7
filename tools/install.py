"""Install packages with pip, and show the progress: `python tools/install.py LOG ARGUMENT…`.

pip prints either hundreds of lines or nothing. Its output goes to the file LOG; the last lines are shown if it fails.
"""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

FOUND = re.compile(r"\s*(?:Collecting|Obtaining) (\S+)")
INSTALLING = re.compile(r"Installing collected packages: (.*)")
SHOWN_LINES = 20  # of the log after a failure
PAUSE_S = 1.0  # between two updates on a terminal
LONG_PAUSE_S = 10.0  # between two lines if the output is not a terminal


class Progress:
    """The progress of pip, from its output."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._found = 0
        self._step = "starting pip"
        self._on_terminal = sys.stdout.isatty()
        self._next_line = self._began

    def read(self, line: str) -> None:
        """Update the step from a line of pip's output."""
        if found := FOUND.match(line):
            self._found += 1
            self._step = f"{self._found} packages found, now {Path(found[1]).name}"
        elif installing := INSTALLING.match(line):
            self._step = f"installing {installing[1].count(',') + 1} packages"

    def show(self) -> None:
        """Show the step: on a terminal always in the same line, else in a new line every `LONG_PAUSE_S`."""
        now = time.monotonic()
        if self._on_terminal:
            sys.stdout.write(f"\r\x1b[K  {now - self._began:3.0f} s  {self._step}"[:100])
        elif now >= self._next_line:
            self._next_line = now + LONG_PAUSE_S
            sys.stdout.write(f"  {now - self._began:3.0f} s  {self._step}\n")
        sys.stdout.flush()

    def end(self, result: str) -> None:
        clear = "\r\x1b[K" if self._on_terminal else ""
        sys.stdout.write(f"{clear}  {time.monotonic() - self._began:3.0f} s  {result}\n")


def main(log: Path, arguments: list[str]) -> int:
    """Run pip and show its progress. Return its exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", *arguments]
    progress, lines = Progress(), queue.SimpleQueue[str]()
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,  # noqa: S603 - pip
    ):
        assert process.stdout is not None  # it is a pipe
        reader = threading.Thread(target=_copy, args=(process.stdout, file, lines), daemon=True)
        reader.start()
        while reader.is_alive() or not lines.empty():
            try:
                progress.read(lines.get(timeout=PAUSE_S))
            except queue.Empty:
                pass
            progress.show()
        status = process.wait()
    progress.end("done" if status == 0 else f"pip failed; the end of {log}:")
    if status:
        sys.stdout.write("\n".join(log.read_text(encoding="utf-8").splitlines()[-SHOWN_LINES:]) + "\n")
    return status


def _copy(source: IO[str], file: IO[str], lines: queue.SimpleQueue[str]) -> None:
    for line in source:
        file.write(line)
        lines.put(line)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
