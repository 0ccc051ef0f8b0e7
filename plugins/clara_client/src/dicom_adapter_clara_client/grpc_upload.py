"""Upload of one file to the platform, in messages that are created on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from attrs import define, field

from dicom_adapter import Permanent, Retriable
from dicom_adapter_clara_client.wire.common_pb2 import Identifier, RequestHeader
from dicom_adapter_clara_client.wire.payloads_pb2 import PayloadFileDetails, PayloadsUploadRequest


class CancellableCall(Protocol):
    """A call that can be cancelled."""

    def cancel(self) -> Any: ...


@define(kw_only=True)
class OutgoingFile:
    """One file. gRPC asks for its messages in a thread of its own, where an exception would only end up in a log.

    The end of the messages means the end of the file, so the call is cancelled when the file cannot be read to its end.
    Some servers (Python's, now and then) take even that for the end: the platform may then have a part of the file
    under its name, until the upload is repeated. A job with such a file is never started.
    """

    subject: str  # what error messages begin with
    header: RequestHeader
    payload_id: str
    name: str  # below the payload's input folder
    size_bytes: int
    chunk_bytes: int
    source: BinaryIO = field(repr=False)
    is_whole: bool = False  # every byte was given to gRPC
    failure: Exception | None = None  # why not
    _call: CancellableCall | None = None
    _has_call: threading.Event = field(factory=threading.Event)

    def belongs_to(self, call: CancellableCall) -> None:
        """Set the call that sends this file, as soon as it exists."""
        self._call = call
        self._has_call.set()

    def requests(self) -> Iterator[PayloadsUploadRequest]:
        """Yield all messages, at least one."""
        try:
            yield from map(self._request, self._chunks())
            self.is_whole = True
        except Exception as failure:  # noqa: BLE001 - raised again in the thread that waits for the response
            self.failure = failure
            self._call_off()

    def _chunks(self) -> Iterator[bytes]:
        """The file in chunks, which `source` may cut shorter; an empty one for an empty file.

        The last one is held back until the file has shown its end, and with it any fault: so what went out before a
        call was cancelled is always shorter than the file, and most files, having one chunk, do not go out at all.
        """
        held = self._read(self.size_bytes)
        length = len(held)
        while chunk := self._read(self.size_bytes - length):
            length += len(chunk)
            if length > self.size_bytes:
                break
            yield held
            held = chunk
        if length != self.size_bytes:
            found = "more" if length > self.size_bytes else f"only {length}"
            raise Permanent(f"{self.subject}: the stored file has {found} bytes where {self.size_bytes} were recorded")
        yield held

    def _read(self, left: int) -> bytes:
        """The next chunk; no room is made for more than what is left and one byte, which would be one too many."""
        try:
            return self.source.read(min(self.chunk_bytes, left + 1))
        except OSError as failure:
            raise Retriable(f"{self.subject}: reading the stored file failed ({type(failure).__name__})") from failure

    def _request(self, chunk: bytes) -> PayloadsUploadRequest:
        """`size` is that of the chunk, as with NVIDIA's own client: what the platform makes of it is not known."""
        return PayloadsUploadRequest(
            header=self.header,
            payload_id=Identifier(value=self.payload_id),
            details=PayloadFileDetails(mode=0, size=len(chunk), name=self.name),
            data=chunk,
        )

    def _call_off(self) -> None:
        self._has_call.wait()
        assert self._call is not None
        self._call.cancel()
