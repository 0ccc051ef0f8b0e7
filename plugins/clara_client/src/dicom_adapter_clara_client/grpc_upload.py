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
    """One file to upload. gRPC reads the messages of the file in another thread, where an exception is only logged.

    The end of the messages means the end of the file, so the call is cancelled if the file cannot be read completely.
    Some servers treat even a cancellation as the end of the messages: then the platform may have an incomplete file
    until the upload is repeated. A job with such a file is never started.
    """

    subject: str  # start of error messages
    header: RequestHeader
    payload_id: str
    name: str  # below the payload's input folder
    size_bytes: int
    chunk_bytes: int
    source: BinaryIO = field(repr=False)
    is_whole: bool = False  # gRPC has read all messages
    failure: Exception | None = None  # the reason why the file is not complete
    _call: CancellableCall | None = None
    _has_call: threading.Event = field(factory=threading.Event)

    def set_call(self, call: CancellableCall) -> None:
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
            self._cancel()

    def _chunks(self) -> Iterator[bytes]:
        """Yield the file in chunks; one empty chunk for an empty file. `source` may return shorter chunks.

        Each chunk is yielded only after the following chunk was read. So if a read fails or the length is wrong, the
        data sent before the cancellation is shorter than the file. Most files have one chunk: then nothing is sent.
        """
        pending_chunk = self._read(self.size_bytes)
        length = len(pending_chunk)
        while chunk := self._read(self.size_bytes - length):
            length += len(chunk)
            if length > self.size_bytes:
                break
            yield pending_chunk
            pending_chunk = chunk
        if length != self.size_bytes:
            difference = "more" if length > self.size_bytes else f"only {length}"
            raise Permanent(
                f"{self.subject}: the stored file has {difference} bytes where {self.size_bytes} were recorded"
            )
        yield pending_chunk

    def _read(self, remaining: int) -> bytes:
        """Read the next chunk. At most one byte more than expected is read, which shows that the file is too long."""
        try:
            return self.source.read(min(self.chunk_bytes, remaining + 1))
        except OSError as failure:
            raise Retriable(f"{self.subject}: reading the stored file failed ({type(failure).__name__})") from failure

    def _request(self, chunk: bytes) -> PayloadsUploadRequest:
        """Return the message for a chunk. `size` is the size of the chunk, as in NVIDIA's own client."""
        return PayloadsUploadRequest(
            header=self.header,
            payload_id=Identifier(value=self.payload_id),
            details=PayloadFileDetails(mode=0, size=len(chunk), name=self.name),
            data=chunk,
        )

    def _cancel(self) -> None:
        self._has_call.wait()
        assert self._call is not None
        self._call.cancel()
