"""The network link to a destination: a proxy, which slows connections down, breaks them, or answers with failures."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from attrs import evolve, frozen

from faults.breaking import CONNECT_SECONDS, connect_both, reset

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@frozen(kw_only=True)
class LinkFaults:
    """The faults of new connections."""

    is_unavailable: bool = False  # each HTTP request is answered with 503
    pause: float = 0.0  # seconds before each piece of data is passed on
    # Minimum and maximum: a connection is reset after a random number of bytes between them. None: no reset.
    there: tuple[int, int] | None = None  # bytes sent to the destination
    back: tuple[int, int] | None = None  # bytes received from the destination


class DestinationLink:
    """A proxy of all connections to a destination. Adapters connect to `port`."""

    def __init__(self, port: int, target: int, random: Random) -> None:
        self.port = port
        self._target = target
        self._random = random
        self._faults = LinkFaults()
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Listen."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse new connections. Idempotent."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in `accept`
            self._listener.close()
            self._listener = None

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Refuse new connections until the block ends."""
        self.close()
        try:
            yield
        finally:
            self.open()

    @contextmanager
    def with_faults(self, **faults: object) -> Iterator[None]:
        """Let new connections have these faults until the block ends."""
        self._faults = evolve(self._faults, **faults)  # type: ignore[arg-type] # the fields of LinkFaults
        try:
            yield
        finally:
            self._faults = LinkFaults()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _address = listener.accept()
            except OSError:
                return  # the link is closed
            threading.Thread(target=self._serve, args=(near, self._faults), daemon=True).start()

    def _serve(self, near: socket.socket, faults: LinkFaults) -> None:
        with near:
            if faults.is_unavailable:
                _answer_unavailable(near)
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), CONNECT_SECONDS)
            except OSError:
                reset(near)  # the destination is down
                return
            with far:
                there, back = self._limit(faults.there), self._limit(faults.back)
                connect_both(near, far, there=there, back=back, pause=faults.pause)

    def _limit(self, between: tuple[int, int] | None) -> int | None:
        return None if between is None else self._random.randint(*between)


def _answer_unavailable(near: socket.socket) -> None:
    """Answer the first bytes of a request, and read the others until the client closes the connection."""
    near.settimeout(CONNECT_SECONDS)
    try:
        if near.recv(1):
            near.sendall(UNAVAILABLE)
            near.shutdown(socket.SHUT_WR)
            while near.recv(1 << 16):
                pass
    except OSError:
        pass  # the client has reset the connection, or is too slow
