"""How a file gets into a segment of the `local` storage backend: held until it is complete, or written as it comes."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from attrs import define, field

from dicom_adapter.checksum import crc32
from dicom_adapter.errors import StorageFull
from dicom_adapter.segment import RECORD, Record, Segment, write_all
from dicom_adapter.storage import InstanceWriter

SUFFIX = ".segment"
HELD_BYTES = 1 << 20  # of a file that are held to be written in one step
HELD_AT_LEAST = 1 << 16  # however many are written at the same time
HELD_TOGETHER = 32 << 20  # of all files, about
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@define(eq=False)
class Written:
    """A segment that this process writes."""

    segment: Segment
    unsynced: set[int] = field(factory=set)  # starts of complete records that no sync has covered
    in_use: bool = False
    syncs: int = 0  # under way
    is_named: bool = False  # its name is durable
    is_full: bool = False  # nothing more is written to it
    is_broken: bool = False  # a sync failed: what it left behind is not known, and a later one may not say so again

    @property
    def name(self) -> str:
        return self.segment.path.name[: -len(SUFFIX)]

    @property
    def is_done(self) -> bool:
        return self.is_full and not (self.unsynced or self.in_use or self.syncs)


class Segments(Protocol):
    """What the backend does for its writers."""

    def may_hold(self) -> int:
        """Bytes that a writer may hold before it has to write them."""

    def take(self) -> Written:
        """A segment for a writer, until it is given back. Raises OSError or StorageFull when there is none."""

    def finished(self, written: Written, record: Record) -> str:
        """A record is complete, and its segment given back; returns its key."""

    def given_back(self, written: Written) -> None:
        """A writer needs its segment no longer."""

    def ended(self) -> None:
        """A writer writes no more."""

    def delete(self, keys: Sequence[str]) -> None:
        """As `StorageBackend.delete`."""


class LocalWriter(InstanceWriter):
    """Writes one record. An OSError or StorageFull gives back its room at once; it may then only be discarded."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._held = bytearray()  # pieces that are written with what follows
        self._place: _Place | None = None  # where it is written; None: nothing is yet
        self._ended = False
        self._key = ""

    def write(self, piece: bytes | memoryview) -> None:
        self.write_pieces((piece,))

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._require_not_ended()
        size = len(self._held) + sum(map(len, pieces))
        if size <= HELD_AT_LEAST or size <= self._segments.may_hold():
            for piece in pieces:
                self._held += piece
        else:
            with self._giving_up():
                self._taken().write([self._held, *pieces])
            self._held = bytearray()

    def finish(self) -> str:
        self._require_not_ended()
        with self._giving_up():
            place = self._taken()
            record = place.complete(self._held)
        self._end()
        self._key = self._segments.finished(place.written, record)
        return self._key

    def discard(self) -> None:
        if self._key:
            self._segments.delete([self._key])
        elif not self._ended:
            self._give_back()

    def _taken(self) -> _Place:
        if self._place is None:
            self._place = _Place(self._segments.take())
        return self._place

    def _require_not_ended(self) -> None:
        if self._ended:
            raise ValueError("the writer was finished or discarded before; ask the storage backend for a new one")

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Whatever fails in here, its room is given back."""
        try:
            yield
        except BaseException as error:
            self._give_back()
            _raise_if_no_room(error)
            raise

    def _give_back(self) -> None:
        self._end()
        if self._place is not None:
            self._place.clear()
            self._segments.given_back(self._place.written)

    def _end(self) -> None:
        self._ended = True
        self._held = bytearray()
        self._segments.ended()


class _Place:
    """Where a record is written: the end of a segment that its writer has for itself."""

    def __init__(self, written: Written) -> None:
        self.written = written
        self._segment = written.segment
        self._start = self._segment.end
        self._position = self._start + RECORD.size
        self._checksum = 0

    def write(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        self._position = write_all(self._segment.descriptor, pieces, self._position)
        for piece in pieces:
            self._checksum = crc32(piece, self._checksum)

    def complete(self, rest: bytearray) -> Record:
        """Write what is left, and the header, which says that it is all there."""
        checksum = crc32(rest, self._checksum)
        length = self._position + len(rest) - self._start - RECORD.size
        record = Record(start=self._start, length=length, checksum=checksum, is_alive=True)
        if self._position == self._start + RECORD.size:
            write_all(self._segment.descriptor, [self._segment.header(record), rest], self._start)
        else:
            write_all(self._segment.descriptor, [rest], self._position)
            self._segment.seal(record)
        return record

    def clear(self) -> None:
        """Let there be nothing."""
        try:
            self._segment.truncate(self._start)
        except OSError:
            self.written.is_full = True  # with rubbish at its end, which the next start takes away


@contextmanager
def no_room_is_storage_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _raise_if_no_room(error)
        raise


def _raise_if_no_room(error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        raise StorageFull(f"local storage: {error.strerror}; free some room or give it a larger disk") from error
