"""Faults over HTTP: problems on demand, lost and truncated responses."""

from __future__ import annotations

import asyncio
import socket
import struct
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_adapter_clara_client.emulator.faults import CallFault
from dicom_adapter_clara_client.emulator.rest_problems import ProblemAnswer, problem_of
from dicom_adapter_clara_client.emulator.rules import (
    ClaraError,
    Conflict,
    InvalidValue,
    MalformedId,
    NotFound,
    PlatformFailure,
)
from dicom_adapter_clara_client.wire.codes import ClaraCode

TRANSPORT = "dicom_adapter_clara_client.transport"  # key in the ASGI scope: the transport of a call
ABORTED = struct.pack("ii", 1, 0)  # SO_LINGER: close with a TCP reset
GARBAGE = b"<!doctype html><html><title>Welcome</title><p>This is not the platform.</html>"
STATUSES = {  # gRPC status to HTTP status, as in google.rpc.Code
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
# The codes of each class of errors; all other codes are a PlatformFailure.
CLASSES: dict[type[ClaraError], frozenset[int]] = {
    MalformedId: frozenset(
        {ClaraCode.PIPELINE_ID_MALFORMED, ClaraCode.JOB_ID_MALFORMED, ClaraCode.PAYLOAD_ID_MALFORMED}
    ),
    NotFound: frozenset(
        {ClaraCode.NO_SUCH_PIPELINE, ClaraCode.NO_SUCH_JOB, ClaraCode.NO_SUCH_PAYLOAD, ClaraCode.NO_SUCH_FILE}
    ),
    Conflict: frozenset({ClaraCode.JOB_NOT_PENDING, ClaraCode.PAYLOAD_READ_ONLY, ClaraCode.FILE_NAME_TAKEN}),
    InvalidValue: frozenset(
        {
            ClaraCode.DEFINITION_MALFORMED,
            ClaraCode.DEFINITION_NOT_LOADED,
            ClaraCode.JOB_NAME_INVALID,
            ClaraCode.PIPELINE_METADATA_REFUSED,
            ClaraCode.JOB_METADATA_REFUSED,
            ClaraCode.JOB_PRIORITY_INVALID,
            ClaraCode.JOB_INPUT_REFUSED,
            ClaraCode.FILE_NAME_INVALID,
            ClaraCode.PAYLOAD_METADATA_REFUSED,
        }
    ),
}


def problem_of_status_fault(fault: CallFault) -> ProblemAnswer:
    """Return the response of a STATUS fault."""
    text = str(fault.status)
    status = int(text) if text.isdigit() else STATUSES.get(text, HTTPStatus.INTERNAL_SERVER_ERROR.value)
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    if 300 <= status < 400:
        headers["Location"] = "/elsewhere"
    name = "unavailable" if status == HTTPStatus.SERVICE_UNAVAILABLE else "demanded"
    return ProblemAnswer((name, status, "The call fails on demand"), "; ".join(fault.messages), headers=headers)


def problem_of_code_fault(fault: CallFault) -> ProblemAnswer:
    """Return the response of a CODE fault."""
    family = next((cls for cls, codes in CLASSES.items() if fault.code in codes), PlatformFailure)
    known = fault.code in {code.value for code in ClaraCode}
    problem = problem_of(family(ClaraCode(fault.code) if known else ClaraCode.INTERNAL, *fault.messages))
    problem.code = int(fault.code)
    return problem


class LostAnswer(Response):
    """A response that never arrives: the connection is reset or closed, or garbage is sent instead."""

    def __init__(self, whole: Response | None = None, *, garbage: bool = False) -> None:
        """`whole`: the original response. If None, the work was not done, and the connection is reset."""
        super().__init__(GARBAGE, HTTPStatus.OK.value, media_type="text/html")
        self._whole = whole
        self._garbage = garbage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope[TRANSPORT]
        if self._whole is None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORTED)
        else:
            await self._whole(scope, receive, _discard)  # so that the response closes its file
        if self._garbage:
            await super().__call__(scope, receive, send)
        else:
            transport.abort()
            await _wait_until_closed(receive)


class TruncatedAnswer(Response):
    """A response with half of its body."""

    def __init__(self, whole: Response) -> None:
        super().__init__()
        length = int(whole.headers.get("content-length", 0))
        self._whole = whole if length else Response("{}", media_type="application/json")  # an empty body cannot be cut
        self._left = max(length, 2) // 2  # bytes that are still sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_half(message: Message) -> None:
            if message["type"] == "http.response.body":
                part = message.get("body", b"")[: self._left]
                self._left -= len(part)
                message = {**message, "body": part, "more_body": True}
            await send(message)

        await self._whole(scope, receive, send_half)
        scope[TRANSPORT].close()  # after the buffered data
        await _wait_until_closed(receive)


async def _discard(_message: Message) -> None:
    """Send nothing."""


async def _wait_until_closed(receive: Receive) -> None:
    """Wait until the connection is closed. Otherwise the server would complete the response."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Connections:
    """The open connections of a server. Each call finds its transport in its ASGI scope."""

    def __init__(self) -> None:
        self._open: set[asyncio.Transport] = set()

    def protocol(self) -> type[asyncio.Protocol]:
        """Return the protocol class for uvicorn, which registers each connection here."""
        opened = self._open

        class TrackedProtocol(H11Protocol):
            def connection_made(self, transport: Any) -> None:
                opened.add(transport)
                self.app = _with_transport(self.app, transport)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                opened.discard(self.transport)
                super().connection_lost(exc)

        return TrackedProtocol

    def abort(self) -> None:
        """Close all open connections."""
        for transport in list(self._open):
            transport.abort()


def _with_transport(app: ASGIApp, transport: Any) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, TRANSPORT: transport}, receive, send)

    return call
