"""Network connections with a time limit for a whole call, however slowly the peer reads or sends.

The timeouts of httpcore limit one operation on the socket. A peer that sends one byte at a time can stay below them for
hours, so each operation is also limited by the time that is left for the call.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

SHORTEST_S = 0.001  # 0 would mean: do not wait at all
NETWORK_FAILURES = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


class CallLimit(threading.local):
    """The end of the call that runs in the current thread."""

    end: float | None = None  # on the clock of time.monotonic; None: no call runs

    @contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """Limit all operations in the `with` block to `seconds` together."""
        self.end = time.monotonic() + seconds
        try:
            yield
        finally:
            self.end = None

    def cut(self, timeout: float | None, failure: type[Exception]) -> float | None:
        """Return `timeout`, or the time that is left for the call if it is shorter.

        Raises `failure` if no time is left.
        """
        if self.end is None:
            return timeout
        left = self.end - time.monotonic()
        if left <= 0:
            raise failure("the time for the call is over")
        return max(SHORTEST_S, left if timeout is None else min(left, timeout))


class LimitedStream(httpcore.NetworkStream):
    """A network stream whose operations end with the call."""

    def __init__(self, stream: httpcore.NetworkStream, limit: CallLimit) -> None:
        self._stream = stream
        self._limit = limit

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._limit.cut(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._limit.cut(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(
            ssl_context, server_hostname, self._limit.cut(timeout, httpcore.ConnectTimeout)
        )
        return LimitedStream(secured, self._limit)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        """Close the connection, and end the calls of other threads that wait for it."""
        connection = self._stream.get_extra_info("socket")
        if isinstance(connection, socket.socket):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed by the peer
        self._stream.close()


class LimitedNetwork(httpcore.NetworkBackend):
    """Opens connections whose operations end with the call."""

    def __init__(self, limit: CallLimit) -> None:
        self._backend = httpcore.SyncBackend()
        self._limit = limit

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        timeout = self._limit.cut(timeout, httpcore.ConnectTimeout)
        return LimitedStream(self._backend.connect_tcp(host, port, timeout, local_address, socket_options), self._limit)
