"""The disk of a destination: a tmpfs, which becomes full for new files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ATTEMPTS = 20  # to reduce the limit while files are created


class DestinationDisk:
    """A mounted tmpfs, or an ordinary folder if none can be mounted.

    While it is full, no file can be created (ENOSPC): there are no inodes left. Without free bytes instead, Orthanc
    1.10.1 creates the file of a small instance, notices only while it closes the file that the bytes cannot be written,
    and acknowledges the instance nevertheless. No adapter can deliver to a product that loses what it acknowledges.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.can_be_full = _mount("-t", "tmpfs", "tmpfs", path=path)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Let the disk be full until the block ends."""
        limit = os.statvfs(self.path).f_files
        for _attempt in range(ATTEMPTS):
            if _mount("-o", f"remount,nr_inodes={self._used}", path=self.path):
                break
        try:
            yield
        finally:
            _mount("-o", f"remount,nr_inodes={limit}", path=self.path)

    def end(self) -> None:
        """Unmount the disk. Its files are copied to the mount point. Idempotent."""
        if not self.can_be_full:
            return
        self.can_be_full = False
        copy = self.path.with_name(f"{self.path.name}.copy")
        shutil.copytree(self.path, copy)
        subprocess.run(["umount", "--lazy", self.path], check=True)
        self.path.rmdir()
        copy.rename(self.path)

    @property
    def _used(self) -> int:
        numbers = os.statvfs(self.path)
        return numbers.f_files - numbers.f_ffree


def _mount(*options: object, path: Path) -> bool:
    """Mount or remount. Return whether it was possible."""
    command = ["mount", *map(str, options), str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
