"""`PlacedDatabase`: detect that the files of the open database are not in their places any more: deleted or replaced.

SQLite continues to use deleted files: transactions are committed to them, and lost when the process ends.
"""

from __future__ import annotations

import os
from pathlib import Path

from dicom_adapter.api.errors import LedgerReplaced
from dicom_adapter.api.local_disk import PlacedFile


class PlacedDatabase:
    """The files of a database, with their places: the database file, its write-ahead log, and the index of that log.

    A `PlacedFile` is the place of a file: path, device and inode.
    """

    def __init__(self, file: Path | None) -> None:
        """`file`: None if the database is not a local file; then nothing is checked."""
        self._file = file
        self._database: tuple[PlacedFile, ...] = ()
        self._logs: tuple[PlacedFile, ...] = ()

    def record_database(self) -> None:
        """Record the file that the first connection has opened."""
        if self._file is not None and not self._database:
            self._database = (_placed(self._file),)

    def record_logs(self) -> None:
        """Record the log and its index. Call this in a transaction: the files exist while a connection is open."""
        if self._file is not None:
            real = os.path.realpath(self._file)
            self._logs = tuple(_placed(Path(f"{real}{suffix}")) for suffix in ("-wal", "-shm"))

    def problem(self) -> str:
        """Return why an opened file was replaced or is missing; "" if none was. Calls stat(2) three times."""
        for file in self._database + self._logs:
            problem = file.problem()
            if problem:
                return problem
        return ""

    def require(self) -> None:
        """Raise LedgerReplaced if the files are no longer those that were opened."""
        problem = self.problem()
        if problem:
            raise LedgerReplaced(problem)


def _placed(file: Path) -> PlacedFile:
    try:
        return PlacedFile.at(file)
    except FileNotFoundError:  # deleted between the opening of the database and this call
        raise LedgerReplaced(f"{file} is missing: it was deleted or moved, or its disk is not mounted") from None
