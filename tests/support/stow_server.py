"""A DICOMweb server for tests: a real HTTP server that stores instances, or answers as a test has scripted."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import Factory, define, field, frozen

LONGEST_KEPT = 1_000_000  # bytes of an instance; of longer ones, only the checksum is kept
PIECE_BYTES = 1 << 16


@frozen(kw_only=True)
class Answer:
    """A response of the server. A mapping or list is sent as DICOM JSON."""

    status: int = 200
    body: bytes | Mapping[str, Any] | Sequence[Any] = b""
    headers: Mapping[str, str] = field(factory=dict)


@frozen(kw_only=True)
class SeenRequest:
    """A request that has arrived completely."""

    method: str
    path: str
    headers: Mapping[str, str]  # with names in lower case
    body: bytes  # empty if it was longer than LONGEST_KEPT
    connection: int  # the peer's port

    @property
    def part(self) -> bytes:
        """The only part of a multipart body."""
        return part_of(self.body, self.headers["content-type"])


def part_of(body: bytes, content_type: str) -> bytes:
    """Return the content of the only part of a multipart body, which is checked byte by byte."""
    boundary = content_type.rpartition("boundary=")[2]
    head, tail = _head_of(boundary), _tail_of(boundary)
    assert body.startswith(head), body[:200]
    assert body.endswith(tail), body[-200:]
    return body[len(head) : -len(tail)]


def stored(uid: str, warning: int | None = None) -> Mapping[str, Any]:
    """Return the Store Instances Response Module for an instance that was stored (PS3.18 annex I)."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    return {"00081199": {"vr": "SQ", "Value": [item]}, "00081198": {"vr": "SQ"}}


def failed(uid: str, reason: Any, sequence: str = "00081198") -> Mapping[str, Any]:
    """Return the module for an instance that was not stored."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if reason is not None:
        item["00081197"] = {"vr": "US", "Value": [reason]}
    return {sequence: {"vr": "SQ", "Value": [item]}}


def found(*uids: str) -> Sequence[Any]:
    """Return the results of a search for instances."""
    return [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]


@define
class StowServer:
    """A DICOMweb server on a free port of this machine.

    `answer` returns the response to a request; by default, each instance is stored and confirmed by status 200 alone.
    """

    answer: Callable[[SeenRequest], Answer] = field(default=lambda _request: Answer())
    context: ssl.SSLContext | None = None
    requests: list[SeenRequest] = Factory(list)
    checksums: set[str] = Factory(set)  # SHA-256 of the instances that have arrived completely
    ended: threading.Event = Factory(threading.Event)  # set when a connection that had a request has ended
    _server: ThreadingHTTPServer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stow": self}))
        self._server.daemon_threads = True
        if self.context is not None:
            self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}/dicom-web"

    def stored_requests(self) -> list[SeenRequest]:
        return [request for request in self.requests if request.method == "POST"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    stow: StowServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self._read_body()
        if body is not None:
            self._respond(body)

    def do_GET(self) -> None:
        self._respond(b"")

    def finish(self) -> None:
        super().finish()
        if getattr(self, "command", None):
            self.stow.ended.set()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Write nothing to stderr."""

    def _read_body(self) -> bytes | None:
        """Return the body; empty if it is too long to keep, None if it is incomplete."""
        length, kept = int(self.headers["Content-Length"]), b""
        digest, boundary = hashlib.sha256(), self.headers["Content-Type"].rpartition("boundary=")[2]
        head, tail = len(_head_of(boundary)), len(_tail_of(boundary))
        at = 0
        while at < length:
            piece = self.rfile.read1(min(PIECE_BYTES, length - at))  # type: ignore[attr-defined] # a BufferedReader
            if not piece:
                self.close_connection = True
                return None
            digest.update(piece[max(0, head - at) : max(0, min(len(piece), length - tail - at))])
            kept = kept + piece if length <= LONGEST_KEPT else b""
            at += len(piece)
        self.stow.checksums.add(digest.hexdigest())
        return kept

    def _respond(self, body: bytes) -> None:
        request = SeenRequest(
            method=self.command,
            path=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            connection=self.client_address[1],
        )
        self.stow.requests.append(request)
        answer = self.stow.answer(request)
        content, headers = answer.body, {}
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/dicom+json"}
        if answer.status != HTTPStatus.NO_CONTENT:
            headers["Content-Length"] = str(len(content))
        self.send_response(answer.status)
        for name, value in {**headers, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _head_of(boundary: str) -> bytes:
    return f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()


def _tail_of(boundary: str) -> bytes:
    return f"\r\n--{boundary}--\r\n".encode()


def serving(server: StowServer) -> Iterator[StowServer]:
    """Yield the server, and close it: the body of a fixture."""
    try:
        yield server
    finally:
        server.close()
