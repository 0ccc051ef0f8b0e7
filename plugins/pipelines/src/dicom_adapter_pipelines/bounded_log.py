"""The log of a job: what its command printed, in files of bounded size. The head and the tail are kept.

log      the first half; after the end of the command, everything that is kept
log.old  the previous part of the tail
log.new  the current part of the tail
log.gap  number of the bytes that were omitted between log and log.old
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from dicom_adapter_pipelines.durable_files import FILE_MODE

MARK = "[dicom-adapter]"  # begins the lines that do not come from the command


class BoundedLog:
    """Writes the log. A full disk loses text but raises no error, because the command's outcome is more important."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._old, self._new, self._gap = _tail_files(path)
        self._head_bytes, self._part_bytes = max_bytes // 2, max(1, max_bytes // 4)  # the tail has two parts
        self._omitted = 0  # bytes
        self._file_bytes = 0  # written to the current file
        for file in (self._old, self._new, self._gap):
            file.unlink(missing_ok=True)
        self._file: BinaryIO = _create(path)
        self._in_head = True
        self.received = 0  # bytes from the command

    def write(self, data: bytes) -> None:
        """Append bytes of the command."""
        self.received += len(data)
        self._append(data)

    def note(self, text: str) -> None:
        """Append a line of the adapter."""
        self._append(f"{MARK} {text}\n".encode("utf-8", "backslashreplace"))

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                limit = self._head_bytes if self._in_head else self._part_bytes
                piece = view[: max(0, limit - self._file_bytes)]
                if piece:
                    self._file.write(piece)
                    self._file_bytes += len(piece)
                view = view[len(piece) :]
                if view:
                    self._next_part()
        except OSError:
            self._omitted += len(view)

    def _next_part(self) -> None:
        """Begin a new part of the tail: log.new replaces log.old, whose text is omitted."""
        self._file.close()
        if self._in_head:
            self._in_head = False
        else:
            if self._old.exists():
                self._omitted += self._old.stat().st_size
                self._gap.write_text(str(self._omitted))
            self._new.replace(self._old)
        self._file, self._file_bytes = _create(self._new), 0

    def close(self) -> None:
        """Join the parts in one file."""
        try:
            self._file.close()
            if not self._in_head:
                with self._path.open("ab") as head:
                    for part in _parts(self._path)[1:]:
                        head.write(part)
            for file in (self._old, self._new, self._gap):
                file.unlink(missing_ok=True)
        except OSError:
            pass  # the parts stay as they are, and are readable


class LogReader(io.BytesIO):
    """The kept text of a log, in memory because its size is bounded."""

    @classmethod
    def open(cls, path: Path) -> LogReader | None:
        """Read a log, also while it is written; None if there is none."""
        try:
            return cls(b"".join(_parts(path)))
        except FileNotFoundError:
            return None


def _parts(path: Path) -> Sequence[bytes]:
    """Return head, note about omitted bytes, and tail. Raises FileNotFoundError if there is no head."""
    old, new, gap = _tail_files(path)
    parts = [path.read_bytes()]
    omitted = _read(gap).decode()
    if omitted:
        parts.append(f"\n{MARK} {omitted} bytes omitted\n".encode())
    return [*parts, _read(old), _read(new)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _tail_files(path: Path) -> tuple[Path, Path, Path]:
    return path.with_name("log.old"), path.with_name("log.new"), path.with_name("log.gap")


def _create(path: Path) -> BinaryIO:
    path.unlink(missing_ok=True)
    path.touch(mode=FILE_MODE)
    return path.open("wb", buffering=0)
