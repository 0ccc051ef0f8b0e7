"""Uploads and downloads over REST. Files are streamed, so that no file is completely in memory."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, BinaryIO
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dicom_adapter_clara_client.emulator.payloads import INPUT, IncomingFile
from dicom_adapter_clara_client.emulator.rest_calls import UPLOAD, RestCall, RestCalls
from dicom_adapter_clara_client.emulator.rest_problems import (
    BAD_REQUEST,
    DIGEST_MISMATCH,
    FILE_PRESENT,
    PATH_CHARACTERS,
    PATH_READ_ONLY,
    RANGE,
    TOO_LARGE,
    ProblemAnswer,
    instead,
)
from dicom_adapter_clara_client.wire.codes import ClaraCode

PIECE_BYTES = 1 << 18
DIGEST = re.compile(r"\s*([a-z0-9-]+)=:([A-Za-z0-9+/=]*):\s*")  # RFC 9530
DIGESTS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
RANGES = re.compile(r"bytes=(\d*)-(\d*)")


class FileAnswer(StreamingResponse):
    """A part of a file. The file is closed even if the client disconnects."""

    def __init__(self, source: BinaryIO, start: int, end: int, status: int, headers: dict[str, str]) -> None:
        super().__init__(_read(source, start, end), status, headers, "application/octet-stream")
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._source.close()


class FileTransfers:
    """The endpoint of files."""

    def __init__(self, calls: RestCalls, largest_bytes: int | None) -> None:
        self._calls = calls
        self._payloads = calls.platform.payloads
        self._largest_bytes = largest_bytes

    async def put(self, request: Request) -> Response:
        """Handle PUT of a file."""
        return await self._calls.perform(UPLOAD, request, self._upload)

    async def get(self, request: Request) -> Response:
        """Handle GET of a file."""
        return await self._calls.perform("Payloads.Download", request, self._download)

    async def _upload(self, call: RestCall) -> Response:
        digests = _digests(call.parsed.headers.get("content-digest", ""))
        with await run_in_threadpool(self._begin, call) as incoming:
            async for piece in self._limited(call):
                for _expected, digest in digests:
                    digest.update(piece)
                await run_in_threadpool(incoming.write, piece)
            if any(expected != digest.digest() for expected, digest in digests):
                raise ProblemAnswer(DIGEST_MISMATCH)
            await run_in_threadpool(self._commit, call, incoming)
            if incoming.replaced:
                return Response(status_code=204)
            return Response(status_code=201, headers={"Location": quote(call.parsed.path, safe=PATH_CHARACTERS)})

    def _begin(self, call: RestCall) -> IncomingFile:
        with (
            instead(ClaraCode.PAYLOAD_READ_ONLY, PATH_READ_ONLY, lambda: not _is_input(call)),
            instead(ClaraCode.FILE_NAME_TAKEN, FILE_PRESENT, lambda: not _replaces(call)),
        ):
            return self._payloads.receive(
                call.parsed.path_parameters["payload"],
                call.parsed.path_parameters["file"],
                from_root=True,
                replace=_replaces(call),
            )

    def _commit(self, call: RestCall, incoming: IncomingFile) -> None:
        with instead(ClaraCode.FILE_NAME_TAKEN, FILE_PRESENT, lambda: not _replaces(call)):
            incoming.commit()

    async def _limited(self, call: RestCall) -> AsyncIterator[bytes]:
        async for piece in call.pieces():
            if self._largest_bytes is not None and call.received_bytes > self._largest_bytes:
                raise ProblemAnswer(TOO_LARGE, f"a file must have at most {self._largest_bytes} bytes")
            yield piece

    async def _download(self, call: RestCall) -> Response:
        path = call.parsed.path_parameters["file"]
        file, source = await run_in_threadpool(self._payloads.download, call.parsed.path_parameters["payload"], path)
        part = _range(call.parsed.headers.get("range", ""), file.size_bytes)
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(file.size_bytes)}
        start, end = part or (0, file.size_bytes)
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
            headers["Content-Length"] = str(end - start)
        return FileAnswer(source, start, end, 206 if part else 200, headers)


def _is_input(call: RestCall) -> bool:
    return call.parsed.path_parameters["file"].startswith(f"{INPUT}/")


def _replaces(call: RestCall) -> bool:
    return call.parsed.headers.get("if-none-match", "").strip() != "*"


def _digests(header: str) -> list[tuple[bytes, Any]]:
    """Return pairs of expected digest and hash object for the body. Unknown digest algorithms are ignored."""
    digests = []
    for part in filter(None, header.split(",")):
        matched = DIGEST.fullmatch(part)
        if matched is None:
            raise ProblemAnswer(BAD_REQUEST, "Content-Digest must have the form sha-256=:…:")
        if matched[1] in DIGESTS:
            digests.append((_decoded(matched[2]), DIGESTS[matched[1]]()))
    return digests


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ProblemAnswer(BAD_REQUEST, "Content-Digest must be in base64") from None


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Return the start and the exclusive end of the requested range; None for the whole file."""
    match = RANGES.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        return None
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= end:
        raise ProblemAnswer(RANGE, headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _read(source: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    with source:
        source.seek(start)
        while start < end and (piece := source.read(min(PIECE_BYTES, end - start))):
            start += len(piece)
            yield piece
