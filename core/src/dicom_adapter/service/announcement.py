"""The place of a running service's ledger, for commands whose configuration file cannot be read any more.

The supervisor writes the place to an anonymous file (memfd_create(2)), and commands find this file in /proc. The file
needs no disk, does not outlast a service that is killed, and can be read only by the user of the service.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from attrs import asdict, frozen

NAME = "dicom-adapter-service"
LINK = f"/memfd:{NAME} (deleted)"  # the target of the links in /proc/PID/fd to the file (proc(5))
PROCESSES = Path("/proc")


@frozen(kw_only=True)
class Announcement:
    """A running service: the configuration file that it was started with, and its ledger."""

    path: str  # path of the configuration file, absolute and without links
    ledger_url: str
    pid: int  # PID of the supervisor


def announce(path: str, ledger_url: str) -> int:
    """Announce this process as the service of a configuration file, until it ends. Return the descriptor to keep."""
    descriptor = os.memfd_create(NAME)
    os.write(descriptor, json.dumps(asdict(Announcement(path=path, ledger_url=ledger_url, pid=os.getpid()))).encode())
    return descriptor


def find_announcement(path: Path) -> Announcement | None:
    """Return the running service of this user that was started with this configuration file, or None.

    The services of other users are ignored, even if root calls this: any user could announce a ledger for any file.
    """
    wanted = str(path.resolve())
    return next((found for found in _announcements() if found.path == wanted), None)


def _announcements() -> Iterator[Announcement]:
    for process in PROCESSES.glob("[0-9]*"):
        with suppress(OSError, ValueError, TypeError):  # the process has ended, or belongs to another user
            if process.stat().st_uid != os.geteuid():
                continue
            for link in (process / "fd").iterdir():
                if _target(link) == LINK:
                    yield Announcement(**json.loads(link.read_text(encoding="utf-8")))


def _target(link: Path) -> str:
    with suppress(OSError):
        return str(link.readlink())
    return ""
