"""Bodies of requests to a DICOMweb server, and its responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO
from uuid import uuid4

from attrs import field, frozen

from dicom_adapter import Permanent, Retriable

PIECE_BYTES = 1 << 18  # an upload has two pieces in memory


@frozen(kw_only=True)
class DicomwebResponse:
    """Response of the server."""

    status: int
    headers: Mapping[str, str]  # with names in lower case
    body: bytes = field(default=b"", repr=False)  # may contain patient data
    defect: str = ""  # reason why the body cannot be used; "" if it is complete

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@frozen(kw_only=True)
class StowBody:
    """A multipart/related request body (PS3.18 section 8.6.1.2.1) with one instance, or with none.

    The length is known before the file is read, and the file is read in pieces.
    """

    subject: str  # beginning of error messages
    source: BinaryIO | None = field(default=None, repr=False)  # the Part 10 file, read once; None: no instance
    size_bytes: int = 0  # of the file
    boundary: str = field(factory=lambda: uuid4().hex)  # 122 random bits, which no file contains by chance

    @property
    def media_type(self) -> str:
        return f'multipart/related; type="application/dicom"; boundary={self.boundary}'

    @property
    def length(self) -> int:
        return len(self._head) + self.size_bytes + len(self._tail)

    @property
    def _head(self) -> bytes:
        part = f"--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n" if self.source is not None else ""
        return part.encode()

    @property
    def _tail(self) -> bytes:
        line_break = "\r\n" if self.source is not None else ""
        return f"{line_break}--{self.boundary}--\r\n".encode()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body. Raises Permanent if the length of the file is not `size_bytes`.

        Each piece is yielded after the next one is read: a file of wrong length, or one that cannot be read to its end,
        never becomes a complete request.
        """
        head, sent = self._head, 0
        piece = self._read()
        self._check(0, has_more=bool(piece))
        while piece:
            sent += len(piece)
            following = self._read()
            self._check(sent, has_more=bool(following))
            yield head + piece if following else head + piece + self._tail
            head, piece = b"", following
        if not sent:
            yield head + self._tail

    def _check(self, sent: int, *, has_more: bool) -> None:
        if sent > self.size_bytes or has_more != (sent < self.size_bytes):
            length = f"only {sent}" if sent < self.size_bytes else "more"
            raise Permanent(f"{self.subject}: the stored file has {length} bytes where {self.size_bytes} were recorded")

    def _read(self) -> bytes:
        if self.source is None:
            return b""
        try:
            return self.source.read(PIECE_BYTES)
        except OSError as failure:
            raise Retriable(f"{self.subject}: reading the stored file failed ({type(failure).__name__})") from failure
