"""The requests that `rest_connection` sends to the platform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from attrs import field, frozen

from dicom_adapter import Permanent, Retriable

PIECE_BYTES = 1 << 18  # memory of one upload
LONGEST_ANSWER_BYTES = 1_000_000  # a job of the platform has a few thousand bytes


@frozen(kw_only=True)
class FileBody:
    """A file to send in pieces. It can be read only once."""

    source: BinaryIO = field(repr=False)
    size_bytes: int

    def pieces(self, subject: str) -> Iterator[bytes]:
        """Yield the file. Raises Permanent if the length of the file is not `size_bytes`.

        Each piece is yielded only after the next read, so that a file of wrong length never becomes a complete request.
        """
        first = self._read(subject)
        self._check(subject, 0, has_more=bool(first))
        return self._pieces(subject, first)

    def _pieces(self, subject: str, piece: bytes) -> Iterator[bytes]:
        sent = 0
        while piece:
            sent += len(piece)
            following = self._read(subject)
            self._check(subject, sent, has_more=bool(following))
            yield piece
            piece = following

    def _check(self, subject: str, sent: int, *, has_more: bool) -> None:
        if sent > self.size_bytes or has_more != (sent < self.size_bytes):
            length = f"only {sent}" if sent < self.size_bytes else "more"
            raise Permanent(f"{subject}: the stored file has {length} bytes where {self.size_bytes} were recorded")

    def _read(self, subject: str) -> bytes:
        try:
            return self.source.read(PIECE_BYTES)
        except OSError as failure:
            raise Retriable(f"{subject}: reading the stored file failed ({type(failure).__name__})") from failure


@frozen(kw_only=True)
class RestRequest:
    """Request to the platform."""

    subject: str  # start of error messages, such as "job 0…1: create"
    method: str
    path: str  # below the endpoint, percent-encoded where needed
    key: str = ""  # the idempotency key; "" for none
    body: Mapping[str, Any] | FileBody | None = field(default=None, repr=False)  # a mapping is sent as JSON
    may_quote: bool = True  # whether an error may quote the platform's detail
    longest_answer: int = LONGEST_ANSWER_BYTES  # of the response, in bytes
