"""Helpers for storage on a local disk: sync folders, convert the errors of a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_adapter.api.errors import StorageFull

NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


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
