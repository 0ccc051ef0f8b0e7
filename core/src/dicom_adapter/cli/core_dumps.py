"""Disable core dumps unless the configuration requests them: they contain a process's memory, with patient data."""

from __future__ import annotations

import resource
from contextlib import suppress

# With a limit of 1 byte the kernel writes no core dump, and passes none to the program that is named by
# /proc/sys/kernel/core_pattern. With 0, it still passes one to that program, which decides itself. See `do_coredump` in
# fs/coredump.c of the kernel.
OFF = 1


def disable() -> None:
    """Disable core dumps of this process and of the processes that it starts. `enable` may still be called."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with suppress(ValueError, OSError):  # the limit is 0 already, and this user must not raise it
        resource.setrlimit(resource.RLIMIT_CORE, (OFF, OFF if hard == 0 else hard))


def enable() -> None:
    """Enable core dumps, up to the size of the hard limit that this process has inherited."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
