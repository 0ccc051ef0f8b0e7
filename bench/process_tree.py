"""CPU time and memory of a process and its descendants (proc(5))."""

from __future__ import annotations

import os
import threading
import time
from itertools import count
from pathlib import Path
from types import TracebackType

from machine import resident_bytes

TICKS = os.sysconf("SC_CLK_TCK")
EVERY_S = 0.1  # between two samples of memory
PROPORTIONAL_EVERY = 5  # the kernel computes proportional memory from all pages: only with every fifth sample


class ProcessTree:
    """A process and its current descendants."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def pids(self) -> list[int]:
        """Return the running processes, and ended processes whose exit status was not read."""
        pids = [self._pid]
        for pid in pids:
            pids += _children(pid)
        return pids

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes so far, including ended processes whose exit status was read."""
        return sum(map(_cpu_seconds, self.pids()))

    def resident_bytes(self, field: str = "VmRSS") -> int:
        """Return the memory of all processes. Shared pages count once for each process."""
        return sum(resident_bytes(pid, field) for pid in self.pids())

    def proportional_bytes(self) -> int:
        """Return the memory of all processes. Shared pages count once."""
        return sum(map(_proportional_bytes, self.pids()))


class Peak:
    """A context manager that records the peak memory of a process tree."""

    def __init__(self, tree: ProcessTree) -> None:
        self.size_bytes = 0
        self.proportional_bytes = 0  # shared pages count once
        self._tree = tree
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
        # The kernel records the peak of each process, which the samples may have missed.
        self.size_bytes = max(self.size_bytes, self._tree.resident_bytes("VmHWM"))

    def _watch(self) -> None:
        for number in count():
            if number % PROPORTIONAL_EVERY == 0:
                self.proportional_bytes = max(self.proportional_bytes, self._tree.proportional_bytes())
            if self._ended.wait(EVERY_S):
                return
            self.size_bytes = max(self.size_bytes, self._tree.resident_bytes())


def _children(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(child) for child in task.read_text().split()]
        except OSError:  # the thread has ended
            pass
    return children


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of its ended children. The children's time is a multiple of a clock tick."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # The CPU clock of a process (clock_getcpuclockid(3)): ticks of 10 ms are too coarse for an association.
        process_seconds = time.clock_gettime((~pid << 3) | 2)
    except OSError:  # the process has ended
        return 0.0
    return process_seconds + (int(fields[13]) + int(fields[14])) / TICKS  # cutime and cstime
