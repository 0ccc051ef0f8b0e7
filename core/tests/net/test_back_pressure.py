"""Back-pressure: a connection is not read while too many instances wait for their commit, or the peer does not read."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator

import pytest

from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net.connection import MAX_UNCOMMITTED
from dicom_adapter.net.server import DicomServer
from support.conversation import associate, echo, store
from support.listening import SECONDS, SlowCommits

ACCEPTED, RESPONSE = 0x02, 0x04  # PDU types
ENOUGH_BYTES = 64 << 20  # more than the socket buffers of both sides hold


@pytest.fixture
def scp() -> SlowCommits:
    return SlowCommits()


@pytest.fixture
def port(scp: SlowCommits) -> Iterator[int]:
    server = DicomServer(DicomConfig(port=0, bind="127.0.0.1"), scp)
    yield server.start()
    server.stop(0)


def connect(port: int) -> socket.socket:
    """Open a connection with an accepted association."""
    connection = socket.create_connection(("127.0.0.1", port), SECONDS)
    connection.sendall(associate())
    assert ACCEPTED == read_pdu(connection)
    return connection


def read_pdu(connection: socket.socket) -> int:
    """Read one PDU. Returns the type of the PDU."""
    header = connection.recv(6, socket.MSG_WAITALL)
    connection.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)
    return header[0]


def let_the_server_read(port: int) -> None:
    """Wait until the server has read everything that had arrived before, except from paused connections.

    For this purpose it serves another connection, which needs several turns of the event loop.
    """
    for _round in range(3):
        connect(port).close()


def test_a_connection_is_not_read_while_too_many_instances_wait_for_their_commit(scp: SlowCommits, port: int) -> None:
    """The connection is read again after the first commit. Verified to fail when the limit of instances is removed."""
    with connect(port) as connection:
        tickets = []
        for number in range(MAX_UNCOMMITTED):
            connection.sendall(store(b"data set", message_id=number + 1))
            tickets.append(scp.completed.get(timeout=SECONDS))
        connection.sendall(store(b"one more", message_id=99))
        let_the_server_read(port)
        assert MAX_UNCOMMITTED == scp.count

        scp.commit(tickets[0])
        assert RESPONSE == read_pdu(connection)
        tickets.append(scp.completed.get(timeout=SECONDS))
        assert MAX_UNCOMMITTED + 1 == scp.count
        for ticket in tickets[1:]:
            scp.commit(ticket)
            assert RESPONSE == read_pdu(connection)


def test_a_peer_that_waits_for_each_response_is_always_read(scp: SlowCommits, port: int) -> None:
    """The limit counts instances without a result, not all instances of an association."""
    with connect(port) as connection:
        for number in range(3 * MAX_UNCOMMITTED):
            connection.sendall(store(b"data set", message_id=number + 1))
            scp.commit(scp.completed.get(timeout=SECONDS))
            assert RESPONSE == read_pdu(connection)


def test_a_peer_that_does_not_read_responses_is_not_read_either(port: int) -> None:
    """Otherwise the responses would fill the memory. When the peer reads, all its requests are answered.

    Verified to fail when the send buffer of the peer is not checked: the server then reads everything that the peer
    sends.
    """
    requests = echo() * 1000
    with connect(port) as connection:
        connection.setblocking(False)
        sent = fill(connection, requests, port)
        assert sent < ENOUGH_BYTES
        left = -sent % len(echo())
        answers = exchange(connection, echo()[-left:] if left else b"", (sent + left) // len(echo()))
        assert (sent + left) // len(echo()) == answers


def fill(connection: socket.socket, requests: bytes, port: int) -> int:
    """Send until neither the peer nor a socket buffer accepts more. Returns the number of bytes."""
    sent = blocked = 0
    while blocked < 2 and sent < ENOUGH_BYTES:
        try:
            offset = sent % len(requests)
            sent += connection.send(requests[offset:])
            blocked = 0
        except BlockingIOError:
            blocked += 1
            let_the_server_read(port)
    return sent


def exchange(connection: socket.socket, rest: bytes, expected: int) -> int:
    """Send the rest of a request, read until `expected` responses have arrived, and return their number."""
    received = bytearray()
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while not size or len(received) < expected * size:
            if rest:
                try:
                    rest = rest[connection.send(rest) :]
                except BlockingIOError:
                    pass
            assert selector.select(SECONDS), "the server stopped answering"
            received += connection.recv(1 << 20)
            size = size or 6 + int.from_bytes(received[2:6], "big")
    assert RESPONSE == received[0]
    return len(received) // size  # all responses have the same length
