"""The files of a `tls` table, which another program may renew."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

FileVersions: TypeAlias = tuple[tuple[int, int], ...]


def file_versions(paths: Iterable[Path | None]) -> FileVersions:
    """Return a value that changes when one of the files is replaced, appears or disappears."""
    return tuple(_version(path) for path in paths if path is not None)


def _version(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)  # opening the next connection reports the missing file
    return (status.st_mtime_ns, status.st_ino)
