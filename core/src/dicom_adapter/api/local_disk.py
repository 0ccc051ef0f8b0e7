"""Helpers for storage on a local disk: sync folders, allocate blocks, detect full disks and replaced files."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import Factory, field, frozen

from dicom_adapter.api.errors import StorageFull, StorageUnavailable

NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 0x01, 0x02  # fallocate(2)
# Error codes of fallocate(2) on a file system without holes, or that cannot allocate blocks ahead
NO_HOLES = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})

_libc = ctypes.CDLL(None, use_errno=True)
# Python has no function for fallocate(2) with a mode.
_fallocate = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)


def allocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2). Raises OSError."""
    if _fallocate is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if _fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def raise_if_no_free_space(error: BaseException, storage: str) -> None:
    """Raise StorageFull instead of an OSError that reports a full disk or quota. `storage` begins the message."""
    if isinstance(error, OSError) and error.errno in NO_SPACE_ERRNOS:
        raise StorageFull(f"{storage}: {error.strerror}; free some space or use a larger disk") from error


@contextmanager
def no_free_space_is_storage_full(storage: str) -> Iterator[None]:
    """Context manager: apply `raise_if_no_free_space` to every OSError of the block."""
    try:
        yield
    except OSError as error:
        raise_if_no_free_space(error, storage)
        raise


@frozen
class PlacedFile:
    """A file at its path, identified by device and inode number, to check later that the file is still there.

    An open file can be written after it was deleted, replaced or hidden by another mount, but the written data is lost.
    """

    path: Path
    device: int
    inode: int
    _text: str = field(init=False, repr=False, default=Factory(lambda placed: str(placed.path), takes_self=True))

    @classmethod
    def at(cls, path: Path) -> PlacedFile:
        """Return the file that is now at this path. Raises OSError if there is no file."""
        status = path.stat()
        return cls(path, status.st_dev, status.st_ino)

    @classmethod
    def open_as(cls, descriptor: int, path: Path) -> PlacedFile:
        """Return the file of an open descriptor, which was opened at this path."""
        status = os.fstat(descriptor)
        return cls(path, status.st_dev, status.st_ino)

    def problem(self) -> str:
        """Describe the problem if this file is not at its path any more; otherwise return ""."""
        try:
            status = os.stat(self._text)  # noqa: PTH116 - called for each commit, and Path.stat takes longer
        except FileNotFoundError:
            return f"{self.path} is missing: it was deleted or moved, or its disk is not mounted"
        except OSError as failure:
            return f"{self.path} cannot be read ({failure.strerror})"
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            return f"{self.path} was replaced by another file"
        return ""

    def require(self) -> None:
        """Raise StorageUnavailable if this file is not at its path any more."""
        problem = self.problem()
        if problem:
            raise StorageUnavailable(f"{problem}; put the file back, or restart the service")
