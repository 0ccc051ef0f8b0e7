"""The HTTP server on a real socket, with requests byte by byte."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Annotated, Any

import pytest
from litestar import get, post
from litestar.params import JSONBody, QueryParameter

from dicom_adapter import Secret
from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.http import HttpServer, make_app
from dicom_adapter.web.http import connection as connection_module
from dicom_adapter.web.http import server as http_server
from dicom_adapter.web.http.health import Health

TOKEN = "0123456789abcdef"
SHORT_S = 0.1
LIMIT_S = 20.0  # time limit for the server to answer or to close the connection
HOST = b"Host: localhost\r\n"
JSON_BODY = b"Content-Type: application/json\r\n"
CLOSE = b"Connection: close\r\n"
Serve = Callable[..., HttpServer]


@post("/sum")
async def add(data: JSONBody[list[int]]) -> int:
    return sum(data)


@get("/echo")
async def echo(text: Annotated[str, QueryParameter()] = "") -> str:
    return text


@get("/large")
async def large() -> bytes:
    return b"x" * 2**26


finish_slow = threading.Event()


@get("/slow", sync_to_thread=True)
def slow() -> str:
    assert finish_slow.wait(LIMIT_S)
    return "done"


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the deadlines of requests and responses."""
    for name in ("HEAD_S", "BODY_S", "STALLED_S"):
        monkeypatch.setattr(connection_module, name, SHORT_S)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a server on a free port."""
    with ExitStack() as cleaning:

        def make(*, token: str | None = None, **settings: Any) -> HttpServer:
            green = Health(health="green", service="running", problems=[])
            secret = Secret(token) if token else None
            config = HttpConfig(port=0, token=secret, **settings)
            app = make_app({"mine": [add, echo, large, slow]}, lambda: green, Access(config), "1.0")
            server = HttpServer(app, config)
            server.start()
            cleaning.callback(server.stop)
            return server

        yield make


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)


def receive(connection: socket.socket) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def ask(server: HttpServer, request: bytes) -> tuple[int, bytes]:
    """Return the status and the content of the response. The server must close the connection."""
    with connect(server) as connection:
        connection.sendall(request)
        received = receive(connection)
    head, _, content = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), content


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # TLS
        (b"GET /health\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n" + CLOSE + b"\r\n", 400),  # without Host
        (b"GET /health HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET /health HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n" + HOST + b"A b: c\r\n\r\n", 400),
        (b"GET /h\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 10**6, 431),
        (b"POST /mine/sum HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /health HTTP/1.0\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\n" + HOST + b"\r\n", 200),
        (b"HEAD /health HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", 404),
        (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", 404),
        (
            b"POST /mine/sum HTTP/1.1\r\n"
            + HOST
            + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\n[1\r\nZZ\r\n",
            400,
        ),
    ],
)
def test_invalid_and_rare_requests_get_the_right_status(
    serve: Serve, request_bytes: bytes, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors of HTTP itself are also answered with problem details (RFC 9457). None is logged as a bug."""
    answered, content = ask(serve(), request_bytes)
    assert status == answered
    if status != 200 and not request_bytes.startswith(b"HEAD"):
        assert status == json.loads(content)["status"]
    assert "http_request_failed" not in capsys.readouterr().out


def test_http_1_0_without_a_host_is_accepted_with_the_token(serve: Serve) -> None:
    """HTTP/1.0 does not require the header Host. A request with the token is no DNS rebinding attack of a web page."""
    request = f"GET /health HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    status, content = ask(serve(token=TOKEN), request.encode())
    assert (200, "green") == (status, json.loads(content)["health"])


# --- limits of connections -------------------------------------------------------------------------------------------


HEALTH = b"GET /health HTTP/1.1\r\n" + HOST


def answers(connection: socket.socket) -> bool:
    """Return whether the server answers a request on an open connection, which stays open."""
    connection.sendall(HEALTH + b"\r\n")
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status == 200 and bool(response.read())  # the whole response: it may come in several packets


def test_connections_beyond_the_limit_are_closed_at_once(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Open connections are still served. When one of them is closed, another connection is accepted.

    Verified to fail without the limit.
    """
    server = serve(max_connections=3, max_connections_per_peer=3)
    with connect(server) as first, connect(server) as second, connect(server) as third:
        assert [True] * 3 == [answers(each) for each in (first, second, third)]
        with connect(server) as refused:
            assert b"" == receive(refused)
        assert answers(first)
        third.sendall(HEALTH + CLOSE + b"\r\n")
        assert receive(third)  # to the end: the server has closed it
        with connect(server) as fourth:
            assert answers(fourth)
    assert "connection_refused" in capsys.readouterr().out


def test_one_address_cannot_use_all_connections(serve: Serve) -> None:
    """By default, connections from one address can use half of `max_connections`.

    Verified to fail without the limit for each address.
    """
    server = serve(max_connections=4)
    with connect(server) as first, connect(server) as second, connect(server) as third:
        assert [True, True, b""] == [answers(first), answers(second), receive(third)]
        other = socket.create_connection(("127.0.0.1", server.port), LIMIT_S, source_address=("127.0.0.2", 0))
        with other:
            assert answers(other)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"G", b"HTTP/1.1 408"),
        (HEALTH, b"HTTP/1.1 408"),
        (b"POST /mine/sum HTTP/1.1\r\n" + HOST + JSON_BODY + b"Content-Length: 9\r\n\r\n[1", b"HTTP/1.1 408"),
        (b"POST /mine/sum HTTP/1.1\r\n" + HOST + JSON_BODY + b"Transfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 408"),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST + JSON_BODY + b"Content-Length: 9\r\n\r\n[1", b"HTTP/1.1 404"),
    ],
)
def test_a_request_that_stays_incomplete_is_ended(
    serve: Serve, sent: bytes, answer: bytes, short_deadlines: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a first byte there is no response. The connection is closed in any case.

    Verified to fail without the deadlines.
    """
    with connect(serve()) as connection:
        connection.sendall(sent)
        received = receive(connection)
    assert answer == received[:12]
    assert 1 >= received.count(b"HTTP/1.1")
    assert "http_request_failed" not in capsys.readouterr().out


def test_single_bytes_do_not_extend_the_deadline(serve: Serve, short_deadlines: None) -> None:
    """A client that sends one byte now and then would hold its place for ever.

    Verified to fail when each byte restarts the timer.
    """
    with connect(serve()) as connection:
        assert answers(connection)  # the second request of a connection has the deadline, too
        connection.sendall(HEALTH + b"X: ")
        connection.settimeout(SHORT_S / 10)
        received = b""
        while not received:
            connection.sendall(b"x")
            with suppress(TimeoutError):
                received = connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 408")


def test_a_response_that_is_not_read_is_ended(serve: Serve, short_deadlines: None) -> None:
    """The connection is closed although the client keeps it open.

    Verified to fail without the deadline.
    """
    server = serve(max_connections=1, max_connections_per_peer=1)
    with connect(server) as silent:
        silent.sendall(b"GET /mine/large HTTP/1.1\r\n" + HOST + b"\r\n")
        assert silent.recv(1)
        while True:  # its place is free as soon as its response has ended
            with connect(server) as other:
                try:
                    if answers(other):
                        break
                except (BrokenPipeError, ConnectionResetError):
                    pass


def test_deadlines_do_not_apply_while_a_request_is_processed(serve: Serve, short_deadlines: None) -> None:
    """The response of a handler that takes longer than the deadlines is sent."""
    server = serve()
    with connect(server) as waiting, connect(server) as silent:
        waiting.sendall(b"GET /mine/slow HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
        assert b"" == receive(silent)  # closed by the deadline for a first request: more time than that has passed
        finish_slow.set()
        assert receive(waiting).endswith(b"done")


def test_connections_use_at_most_a_quarter_of_the_descriptors(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other descriptors are reserved for files and databases.

    Verified to fail when only the setting counts.
    """
    monkeypatch.setattr(http_server, "max_descriptors", lambda: 11)  # a quarter: two connections
    server = serve(max_connections_per_peer=10)
    with connect(server) as first, connect(server) as second, connect(server) as third:
        assert [True, True, b""] == [answers(first), answers(second), receive(third)]
