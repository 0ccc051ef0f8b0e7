"""CPU and memory of a process and its descendants (proc(5))."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

from machine import resident_bytes

TICKS = os.sysconf("SC_CLK_TCK")
EVERY_S = 0.1  # between two looks at memory


class Family:
    """A process and its descendants, as they are when asked for."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def pids(self) -> list[int]:
        """Those that live, and those that have ended but were not waited for."""
        found = [self._pid]
        for pid in found:
            found += _children(pid)
        return found

    def cpu_seconds(self) -> float:
        """What all of them have used so far, with those that have ended and were waited for."""
        return sum(map(_cpu_seconds, self.pids()))

    def resident_bytes(self, field: str = "VmRSS") -> int:
        """Memory of all of them; pages that they share count for each."""
        return sum(resident_bytes(pid, field) for pid in self.pids())

    def proportional_bytes(self) -> int:
        """Memory of all of them, in which a page that several share counts once."""
        return sum(map(_proportional_bytes, self.pids()))


class Peak:
    """Watches the memory of a family, as a context manager."""

    def __init__(self, family: Family) -> None:
        self.size_bytes = 0
        self._family = family
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        # Each one's own peak, whenever it was: what the looks in between may have missed.
        self.size_bytes = max(self.size_bytes, self._family.resident_bytes("VmHWM"))

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.size_bytes = max(self.size_bytes, self._family.resident_bytes())


def _children(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(child) for child in task.read_text().split()]
        except OSError:  # the thread has just ended
            pass
    return children


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _cpu_seconds(pid: int) -> float:
    """To the nanosecond for the process itself, in ticks for its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # The kernel's clock of a process (clock_getcpuclockid(3)): the tick of 10 ms is too coarse for an association.
        own = time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has just ended
        return 0.0
    return own + (int(fields[13]) + int(fields[14])) / TICKS
