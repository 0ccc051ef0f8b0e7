"""A description of the machine of the measurement. Figures can only be compared on one machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

from attrs import frozen


@frozen(kw_only=True)
class Machine:
    """The facts about a machine that are published with figures."""

    cpu: str  # model
    cores: int  # available to this process
    memory_gb: float
    kernel: str
    python: str
    file_system: str  # of the measured folder
    load: float  # average of the last minute, before the measurement

    def __str__(self) -> str:
        return (
            f"{self.cores} cores of {self.cpu}, {self.memory_gb:.0f} GB, Linux {self.kernel}, Python {self.python}, "
            f"{self.file_system}, load average {self.load:.1f} at the start"
        )


def describe(folder: Path) -> Machine:
    """Describe this machine, with the file system of `folder`."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        kernel=platform.release(),
        python=platform.python_version(),
        file_system=_file_system(folder.resolve()),
        load=os.getloadavg()[0],
    )


def _cpu() -> str:
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return named[0].partition(":")[2].strip() if named else platform.machine()


def _file_system(folder: Path) -> str:
    """Return type and options of the innermost mount that contains `folder`."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    holds: Callable[[list[str]], bool] = lambda mount: folder.is_relative_to(mount[1])  # noqa: E731 - one use below
    mount = max(filter(holds, mounts), key=lambda mounted: len(mounted[1]))
    return f"{mount[2]} ({mount[3]})"


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    """Return the current memory of a process (VmRSS), or its peak since `forget_peak` (VmHWM); 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def forget_peak(pid: int) -> None:
    """Reset VmHWM to the current resident memory (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in user and kernel mode, without ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime
