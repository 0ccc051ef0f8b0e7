"""Entry of rows: the progress of the follower for one receiver run.

    <data>/journals/<receiver run>-<receiver>.progress

The follower overwrites the file in one call, and the receiver reads it in one call. The file is not synced: a power
loss also ends the receiver run.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from attrs import frozen

from dicom_adapter.flow.enter.journal import MODE, SUFFIX, reserve

PROGRESS_SUFFIX = ".progress"
PROGRESS = struct.Struct("<QQQ?")
CHECKSUM = struct.Struct("<I")


@frozen(kw_only=True)
class FollowerProgress:
    """The progress of the follower for one receiver run."""

    entered: int = 0  # number of the record up to which all records have rows, or were dropped as duplicates
    confirmed: int = 0  # the same for rows that are durable: their recovery records are not needed any more
    position: int = 0  # offset in the journal after the line of the confirmed record
    is_ledger_full: bool = False

    def write(self, descriptor: int) -> None:
        """Overwrite the file. Raises OSError."""
        data = PROGRESS.pack(self.entered, self.confirmed, self.position, self.is_ledger_full)
        os.pwrite(descriptor, data + CHECKSUM.pack(zlib.crc32(data)), 0)

    @classmethod
    def read(cls, descriptor: int) -> FollowerProgress | None:
        """Return the content of the file; None if it was never written, or is being written. Raises OSError."""
        data = os.pread(descriptor, PROGRESS.size + CHECKSUM.size, 0)
        values, checksum = data[: PROGRESS.size], data[PROGRESS.size :]
        if CHECKSUM.pack(zlib.crc32(values)) != checksum:
            return None
        entered, confirmed, position, is_full = PROGRESS.unpack(values)
        return cls(entered=entered, confirmed=confirmed, position=position, is_ledger_full=is_full)


def progress_path(journal: Path) -> Path:
    """Return the path of the progress that belongs to a journal."""
    return journal.with_name(journal.name[: -len(SUFFIX)] + PROGRESS_SUFFIX)


def journal_of(progress: Path) -> Path:
    """Return the path of the journal to which a progress belongs."""
    return progress.with_name(progress.name[: -len(PROGRESS_SUFFIX)] + SUFFIX)


def open_progress(journal: Path) -> int:
    """Open the progress of a journal for reading and writing; create it if it is missing. Raises OSError.

    Its block is allocated at once: on a full disk the follower could otherwise report no progress, so it would enter no
    rows, and the space of their instances would never be freed.
    """
    descriptor = os.open(progress_path(journal), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    try:
        reserve(descriptor, 0, PROGRESS.size + CHECKSUM.size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
