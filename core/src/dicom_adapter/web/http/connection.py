"""One HTTP connection: limits at its start, and deadlines for the parts of its requests and responses.

uvicorn has a limit of connections, at which it answers every request with 503, but no time limit for requests. So a few
connections without requests would exclude all clients.
"""

from __future__ import annotations

import asyncio
import json
import sys
from enum import Enum
from http import HTTPStatus
from typing import Any

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_adapter.net.address import plain_address
from dicom_adapter.net.connection_counts import ConnectionCounts
from dicom_adapter.web.http.problems import MEDIA_TYPE, problem

log = structlog.get_logger("dicom_adapter.http")

HEAD_S = 10.0  # time limit for the first byte of a request and the rest of its head
BODY_S = 30.0  # time limit for the whole body of a request
STALLED_S = 30.0  # time limit for a client to read the next part of a response


class _Part(Enum):
    HEAD = "head"
    BODY = "body"


class HttpConnection(H11Protocol):
    """uvicorn's protocol with limits."""

    def __init__(self, counts: ConnectionCounts, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._counts = counts
        self._peer = ""
        self._is_counted = False
        self._part: _Part | None = None  # the part of a request that is being received
        self._deadline: asyncio.TimerHandle | None = None  # deadline of that part
        self._stall: asyncio.TimerHandle | None = None  # deadline of the response, while the client does not read it

    # --- events of the transport --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin to wait for a request. A connection above the limits is closed at once."""
        peer = transport.get_extra_info("peername")
        self._peer = plain_address(peer[0]) if peer else ""
        reason = self._counts.open(self._peer)
        if reason:
            log.warning("connection_refused", peer=self._peer, reason=reason)
            transport.abort()
            return
        self._is_counted = True
        super().connection_made(transport)
        self._follow_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_counted:
            return
        self._counts.close(self._peer)
        _cancel(self._deadline)
        _cancel(self._stall)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_counted:
            super().data_received(data)
            self._follow_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow_request()

    def pause_writing(self) -> None:
        """Limit the time until the client reads the next part of the response."""
        super().pause_writing()
        self._stall = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._stall)

    # --- deadlines ----------------------------------------------------------------------------------------------------

    def _follow_request(self) -> None:
        """Set a deadline when a part of a request begins. Single bytes do not extend it."""
        part = None if self.transport.is_closing() else self._received_part()
        if part is self._part:
            return
        self._part = part
        _cancel(self._deadline)
        self._deadline = None
        if part is not None:
            seconds = HEAD_S if part is _Part.HEAD else BODY_S
            self._deadline = self.loop.call_later(seconds, self._time_out, part)

    def _received_part(self) -> _Part | None:
        """Return the part of a request that has not arrived completely.

        The result is None between two requests, where the keep-alive limit of uvicorn applies.
        """
        if self.conn.their_state is h11.SEND_BODY:
            return _Part.BODY
        is_first = self.cycle is None
        has_begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        return _Part.HEAD if self.conn.their_state is h11.IDLE and (is_first or has_begun) else None

    def _time_out(self, part: _Part) -> None:
        if part is _Part.BODY or self.conn.trailing_data[0]:
            self._end_with(HTTPStatus.REQUEST_TIMEOUT, f"The {part.value} of the request did not arrive in time.")
        else:  # no byte of a request has arrived, so there is nothing to respond to
            self.transport.close()

    # --- errors of the protocol ---------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Respond to a request that is not valid HTTP. uvicorn calls this while it handles the error of h11."""
        status = getattr(sys.exc_info()[1], "error_status_hint", HTTPStatus.BAD_REQUEST)
        self._end_with(HTTPStatus(status), msg)

    def _end_with(self, status: HTTPStatus, detail: str) -> None:
        """Respond with a problem if no response has begun, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application receives no more of the request, and sends nothing
            self.cycle.message_event.set()
        content = json.dumps(problem(status, detail)).encode()
        headers = [
            ("Content-Type", MEDIA_TYPE),
            ("Content-Length", str(len(content))),
            ("Connection", "close"),
        ]
        response = h11.Response(status_code=status, headers=headers, reason=status.phrase)
        try:
            for event in (response, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # a response has begun, or must be empty
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
