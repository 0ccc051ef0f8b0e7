"""A connection that breaks in the middle of a PDU to the adapter, or before a response arrives."""

from __future__ import annotations

import socket
import struct
import threading
import time

ABORTED = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
PIECE = 16384  # bytes
CONNECT_SECONDS = 10


class BreakingConnection:
    """A proxy of one connection to `target`, which resets both sides at a limit. Connect to `port`.

    `there`: limit of the bytes sent to `target`. `back`: limit of the bytes received from it. None: no limit.
    """

    def __init__(self, target: int, *, there: int | None = None, back: int | None = None) -> None:
        self._target = target
        self._there = there
        self._back = back
        self.has_reached_target = False  # there was a connection to `target`
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(CONNECT_SECONDS)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._listener:
            try:
                near, _address = self._listener.accept()
            except TimeoutError:
                return  # no peer has connected
        with near:
            try:
                far = socket.create_connection(("127.0.0.1", self._target), CONNECT_SECONDS)
            except OSError:
                return  # the adapter is down: the sender's connection is closed
            self.has_reached_target = True
            with far:
                connect_both(near, far, there=self._there, back=self._back)


def connect_both(
    near: socket.socket, far: socket.socket, *, there: int | None, back: int | None, pause: float = 0.0
) -> None:
    """Forward bytes in both directions until both have ended, or a limit is reached.

    `there`: limit of the bytes sent to `far`. `back`: limit of the bytes received from it. None: no limit. `pause`:
    seconds before each piece is sent.
    """
    for side in (near, far):
        side.settimeout(None)
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    other = threading.Thread(target=_pump, args=(far, near, back, pause), daemon=True)
    other.start()
    _pump(near, far, there, pause)
    other.join()


def _pump(source: socket.socket, target: socket.socket, most: int | None, pause: float) -> None:
    """Forward bytes up to the end of the stream. Reset both sides after `most` bytes, or when one side is reset."""
    left = most
    try:
        while data := source.recv(PIECE):
            time.sleep(pause)
            target.sendall(data[:left])
            if left is not None and (left := left - len(data)) <= 0:
                raise ConnectionResetError
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for side in (source, target):
            reset(side)


def reset(side: socket.socket) -> None:
    """Close a connection so that the peer sees a reset."""
    try:
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORTED)
        side.shutdown(socket.SHUT_RD)  # wakes a thread in recv, in contrast to `close`; SHUT_RDWR would send a FIN
    except OSError:
        pass  # the socket was reset, or closed by the other direction
    side.close()
