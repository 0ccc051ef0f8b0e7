"""An httpx transport with a deadline for each call, however slowly the peer sends.

httpx limits only the time of each read from the socket. A peer that sends one byte at a time can stay below that limit
for hours, in the headers or in the body. Here every read, write and connect is also limited by the call's deadline.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpcore
import httpx

SHORTEST_WAIT_S = 0.001  # for a socket, 0 means "do not wait at all"
CONNECTIONS = 1000  # far more than the concurrent calls, which the core limits
FAILURES = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpx.TransportError)


class Deadline(threading.local):
    """Deadline of a call that runs in the current thread. A call may use several connections and requests."""

    end: float | None = None  # on the clock of time.monotonic

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Limit all network operations in the `with` block to `seconds` in total."""
        self.end = time.monotonic() + seconds
        try:
            yield
        finally:
            self.end = None

    def until(self, end: float) -> AbstractContextManager[None]:
        """Limit all network operations in the `with` block to a time on the clock of time.monotonic."""
        return self.within(end - time.monotonic())

    def limit(self, timeout: float | None, too_late: type[Exception]) -> float | None:
        """Return the timeout for one operation. Raises `too_late` if the deadline has passed."""
        if self.end is None:
            return timeout
        remaining = self.end - time.monotonic()
        if remaining <= 0:
            raise too_late("the time for the call is over")
        return max(SHORTEST_WAIT_S, remaining if timeout is None else min(timeout, remaining))


class TimedStream(httpcore.NetworkStream):
    """Network stream with the deadline of the running call."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.limit(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.limit(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        limit = self._deadline.limit(timeout, httpcore.ConnectTimeout)
        return TimedStream(self._stream.start_tls(ssl_context, server_hostname, limit), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        """Close the connection and wake threads that wait for data, which closing the socket alone does not do."""
        connection = self._stream.get_extra_info("socket")
        if isinstance(connection, socket.socket):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # already closed by the peer
        self._stream.close()


class TimedBackend(httpcore.NetworkBackend):
    """Network backend whose connections have the deadline of the running call."""

    def __init__(self, deadline: Deadline) -> None:
        self._backend = httpcore.SyncBackend()
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        limit = self._deadline.limit(timeout, httpcore.ConnectTimeout)
        stream = self._backend.connect_tcp(host, port, limit, local_address, socket_options)
        return TimedStream(stream, self._deadline)


class TimedTransport(httpx.BaseTransport):
    """Like `httpx.HTTPTransport`, but with a `Deadline`. All its exceptions are in `FAILURES`."""

    def __init__(self, deadline: Deadline, context: ssl.SSLContext | None, keep_alive: float, max_idle: int) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=CONNECTIONS,
            max_keepalive_connections=max_idle,
            keepalive_expiry=keep_alive,
            network_backend=TimedBackend(deadline),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        assert isinstance(request.stream, Iterable)
        answer = self._pool.handle_request(
            httpcore.Request(
                request.method,
                url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=AnswerBody(answer.stream), extensions=answer.extensions
        )

    def close(self) -> None:
        self._pool.close()


class AnswerBody(httpx.SyncByteStream):
    """The body of a response."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()
