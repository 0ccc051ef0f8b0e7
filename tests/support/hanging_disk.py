"""A disk that hangs: a FUSE file system that answers no request, like a network file system whose server is away."""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import suppress
from pathlib import Path

from support.requirements import required

DEVICE = "/dev/fuse"


class HangingDisk:
    """A mount over an existing folder. Each access of a path below the folder waits until the disk is removed."""

    def __init__(self, folder: Path) -> None:
        """Mount the disk, or skip the test if that is not possible."""
        self._folder = folder
        device = None
        with suppress(OSError):
            device = os.open(DEVICE, os.O_RDWR)
        # mount(8) needs a program that serves the file system; mount(2) needs only the open device (see fuse(4)).
        options = f"fd={device},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
        is_mounted = device is not None and 0 == ctypes.CDLL(None).mount(
            b"hanging-disk", bytes(folder), b"fuse", 0, options.encode()
        )
        required(DEVICE if is_mounted else None, "tmpfs", "no FUSE file system can be mounted: it requires root")
        self._device = device

    def remove(self) -> None:
        """Let all waiting calls fail, and unmount. Later calls reach the folder. Idempotent."""
        if self._device is None:
            return
        os.close(self._device)
        self._device = None
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)
