"""Memory, CPU time, descriptors and threads of the processes of the service, from /proc (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dicom_adapter.web.metrics.gauges import (
    PROCESS_CPU,
    PROCESS_FILES,
    PROCESS_MEMORY,
    PROCESS_MOST_FILES,
    PROCESS_START,
    PROCESS_THREADS,
    Gauge,
)

PROC = Path("/proc")
# Positions in /proc/<pid>/stat after the name of the program, which ends with the last parenthesis
PARENT, UTIME, STIME, THREADS, START, MEMORY = 1, 11, 12, 17, 19, 21


def process_values(pid: int, parent: int, proc: Path = PROC) -> Iterator[tuple[Gauge, float]]:
    """Yield the values of a process; none if it has ended.

    `parent`: the PID of the supervisor. The PID of a process that has ended may belong to another program now, so a
    process that is neither the supervisor nor a child of it is ignored.
    """
    folder = proc / str(pid)
    try:
        fields = (folder / "stat").read_text(encoding="latin-1").rpartition(")")[2].split()
        if pid != parent and int(fields[PARENT]) != parent:
            return
        values = {
            PROCESS_MEMORY: int(fields[MEMORY]) * os.sysconf("SC_PAGE_SIZE"),
            PROCESS_CPU: (int(fields[UTIME]) + int(fields[STIME])) / os.sysconf("SC_CLK_TCK"),
            PROCESS_THREADS: int(fields[THREADS]),
            PROCESS_START: _boot_time(proc) + int(fields[START]) / os.sysconf("SC_CLK_TCK"),
            PROCESS_FILES: sum(1 for _descriptor in (folder / "fd").iterdir()),
            PROCESS_MOST_FILES: _most_files(folder),
        }
    except (OSError, ValueError, IndexError):  # it has ended, or belongs to another user, or this is not Linux
        return
    yield from values.items()


def _boot_time(proc: Path) -> int:
    """Return the time at which the machine was started, in seconds since 1970."""
    for line in (proc / "stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    raise ValueError("no btime")


def _most_files(folder: Path) -> float:
    """Return the soft limit of open files."""
    for line in (folder / "limits").read_text(encoding="ascii").splitlines():
        if line.startswith("Max open files"):
            limit = line.split()[3]
            return float("inf") if limit == "unlimited" else int(limit)
    raise ValueError("no limit of open files")
