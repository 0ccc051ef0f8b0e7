"""One association of the benchmark's sender, directly on a socket, for minimal cost."""

from __future__ import annotations

import socket
import struct
import time
from types import TracebackType

from receive_pdus import (
    ACCEPT,
    COMMAND,
    HEADER,
    LAST,
    P_DATA,
    REJECT,
    RELEASE_ANSWER,
    RELEASE_REQUEST,
    Accepted,
    associate_request,
    echo_request,
    read_accept,
    read_fragments,
    status_of,
)

HOST = "127.0.0.1"
SILENCE_S = 120  # a receiver that sends nothing for this long has failed
TRANSIENT = 2  # result of A-ASSOCIATE-RJ
PAUSE_S = 0.001  # before an association that was rejected as transient is requested again


class LinkFailed(Exception):
    """The receiver did not accept, did not answer with success, or did not release."""


class Link:
    """An open association."""

    def __init__(self, port: int, called: str, calling: str = "BENCH") -> None:
        """Connect and associate. Repeat after transient rejections. Raises LinkFailed, OSError."""
        self.rejections = 0
        self.accepted = self._associate(port, associate_request(called, calling))
        self._echo = echo_request()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if failure is None:
            self.release()
        self._socket.close()

    def _associate(self, port: int, request: bytes) -> Accepted:
        deadline = time.monotonic() + SILENCE_S
        while True:
            self._socket = _connect(port)
            self._socket.sendall(request)
            kind, body = self._read()
            if kind == ACCEPT:
                return read_accept(body)
            self._socket.close()
            if kind != REJECT or body[1] != TRANSIENT or time.monotonic() > deadline:
                raise LinkFailed(f"requested an association and received PDU 0x{kind:02X} {body.hex(' ')}")
            self.rejections += 1
            time.sleep(PAUSE_S)

    def store(self, message: bytearray) -> None:
        """Send a C-STORE request and wait for its success response."""
        self._socket.sendall(message)
        self._await_success()

    def echo(self) -> None:
        """Send a C-ECHO request and wait for its success response."""
        self._socket.sendall(self._echo)
        self._await_success()

    def release(self) -> None:
        """Release the association and wait for the response."""
        self._socket.sendall(RELEASE_REQUEST)
        kind, body = self._read()
        if kind != RELEASE_ANSWER:
            raise LinkFailed(f"requested a release and received PDU 0x{kind:02X} {body.hex(' ')}")

    def close(self) -> None:
        """Close the connection without a release."""
        self._socket.close()

    def _await_success(self) -> None:
        command, is_last = b"", False
        while not is_last:
            kind, body = self._read()
            if kind != P_DATA:
                raise LinkFailed(f"waited for a response and received PDU 0x{kind:02X} {body.hex(' ')}")
            for control, data in read_fragments(body):
                command += data if control & COMMAND else b""
                is_last = bool(control & LAST)
        status = status_of(command)
        if status:
            raise LinkFailed(f"a response with status 0x{status:04X}")

    def _read(self) -> tuple[int, bytes]:
        """Return the type and the body of the next PDU.

        The receiver sends one PDU and then waits for a request, so no bytes of a further PDU are received.
        """
        received = b""
        while len(received) < HEADER.size or len(received) < HEADER.size + HEADER.unpack_from(received)[1]:
            # DCMTK writes a response in two pieces and sends the second when the first is acknowledged (RFC 896).
            # A delayed acknowledgement (RFC 1122, 4.2.3.2) would cost 40 ms each time.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            more = self._socket.recv(65536)
            if not more:
                raise LinkFailed("the receiver closed the connection")
            received += more
        return received[0], received[HEADER.size :]


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The kernel's timeouts, socket(7). Timeouts of Python would cost a poll(2) for each call.
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", SILENCE_S, 0))
    return connection
