"""The processes of a job: started with limits, found, and ended together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dicom_adapter_pipelines.users import check_user

PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG = 36, 1  # <linux/prctl.h>
PROC = Path("/proc")
CPU_GRACE = 5  # seconds of CPU time from SIGXCPU to SIGKILL
UMASK = 0o077  # outputs are patient data


def adopt_descendants() -> None:
    """Become the parent of descendants whose parents end (Linux), so that they can be found and ended."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def start_process(
    arguments: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    folder: Path,
    output: int,
    user: str,
    memory: int | None,
    cpu_seconds: int | None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, with stdout and stderr to `output`. Raises OSError, Permanent."""
    return subprocess.Popen(  # noqa: S603 - the configured command; no shell
        arguments,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        umask=UMASK,
        preexec_fn=_limiter(memory, cpu_seconds),
        **_credentials(user),
    )


def _limiter(memory: int | None, cpu_seconds: int | None) -> Callable[[], None]:
    """Return a function that limits the calling process, after the change of its user."""
    limits = {resource.RLIMIT_CORE: (0, 0)}  # soft and hard; a core dump contains patient data
    if memory is not None:
        limits[resource.RLIMIT_AS] = (memory, memory)
    if cpu_seconds is not None:
        limits[resource.RLIMIT_CPU] = (cpu_seconds, cpu_seconds + CPU_GRACE)  # SIGXCPU, then SIGKILL

    def limit() -> None:
        for kind, values in limits.items():
            _soft, hard = resource.getrlimit(kind)
            soft, wanted = values if hard == resource.RLIM_INFINITY else (min(value, hard) for value in values)
            resource.setrlimit(kind, (soft, wanted))
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the command never outlives its runner

    return limit


def _credentials(user: str) -> dict[str, Any]:
    """Return arguments of Popen for a user by name or number. Raises Permanent."""
    if not user or os.geteuid() != 0:
        return {}
    account = check_user(user)
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


def descendants(ancestor: int) -> list[int]:
    """Return the ids of all living processes that descend from a process (Linux)."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents():
        children.setdefault(parent, []).append(process)
    found, left = [], [ancestor]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Yield the id of each living process, and the id of its parent."""
    for process in _process_ids():
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = (PROC / str(process) / "stat").read_bytes()
            state, parent = text[text.rindex(b")") + 1 :].split()[:2]
            if state != b"Z":  # a zombie has no children any more: the runner or process 1 has adopted them
                yield process, int(parent)


def _process_ids() -> Iterator[int]:
    try:
        names = [entry.name for entry in PROC.iterdir()]
    except OSError:
        return
    yield from (int(name) for name in names if name.isdecimal())


def find_by_variable(name: str, value: str) -> list[int]:
    """Return the ids of the other processes that were started with this environment variable and value (Linux)."""
    wanted = f"{name}={value}".encode()
    found = []
    for process in _process_ids():
        with contextlib.suppress(OSError):
            if wanted in (PROC / str(process) / "environ").read_bytes().split(b"\0"):
                found.append(process)
    return [process for process in found if process != os.getpid()]


def send(number: signal.Signals, processes: list[int]) -> None:
    """Send a signal to processes; those that have ended, or belong to root, are skipped."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def end_group(number: signal.Signals, group: int) -> None:
    """Send a signal to a process group, which may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
