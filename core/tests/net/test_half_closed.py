"""A sender that closes only its sending side still receives the responses to its complete requests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net.connection import MAX_UNCOMMITTED
from support.conversation import ABORT, RELEASE_RQ, associate, echo, pdus, store
from support.listening import SECONDS, Listening, SlowCommits, wait_until

ACCEPTED, RESPONSE, RELEASED = 0x02, 0x04, 0x06  # PDU types


@pytest.fixture
def scp() -> SlowCommits:
    return SlowCommits()


@pytest.fixture
def listening(scp: SlowCommits) -> Iterator[Listening]:
    listening = Listening(DicomConfig(port=0, bind="127.0.0.1"), [], scp)
    yield listening
    listening.stop()


def connect(listening: Listening) -> socket.socket:
    """Open a connection with an accepted association."""
    connection = socket.create_connection(("127.0.0.1", listening.port), SECONDS)
    connection.sendall(associate())
    header = connection.recv(6, socket.MSG_WAITALL)
    assert ACCEPTED == header[0]
    connection.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)
    return connection


def received(connection: socket.socket) -> list[int]:
    """Return the types of all PDUs until the server closes the connection."""
    data = b""
    while piece := connection.recv(4096):
        data += piece
    return [kind for kind, _body in pdus(data)]


def commit_after_half_close(listening: Listening, scp: SlowCommits, sent: bytes, instances: int) -> list[int]:
    """Send, close the sending side, and commit the instances when the server has noticed that."""
    with connect(listening) as connection:
        [open_connection] = listening.server._connections
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        tickets = [scp.completed.get(timeout=SECONDS) for _number in range(instances)]
        wait_until(lambda: open_connection.is_half_closed)
        for ticket in tickets:
            scp.commit(ticket)
        return received(connection)


def test_the_response_is_sent_after_the_commit(listening: Listening, scp: SlowCommits) -> None:
    """After the response, the connection is closed.

    Verified to fail when the end of the input ends the association.
    """
    assert [RESPONSE] == commit_after_half_close(listening, scp, store(b"data set"), 1)
    wait_until(lambda: bool(scp.ended))
    assert [("lost", {"SUCCESS": 1})] == [(closed.how, closed.statuses) for closed in scp.ended]


def test_all_responses_are_sent(listening: Listening, scp: SlowCommits) -> None:
    sent = store(b"1", message_id=1) + store(b"2", message_id=2) + echo(3)
    assert [RESPONSE] * 3 == commit_after_half_close(listening, scp, sent, 2)


def test_a_requested_release_is_confirmed(listening: Listening, scp: SlowCommits) -> None:
    assert [RESPONSE, RELEASED] == commit_after_half_close(listening, scp, store(b"data set") + RELEASE_RQ, 1)
    wait_until(lambda: bool(scp.ended))
    assert ["released"] == [closed.how for closed in scp.ended]


def test_an_incomplete_instance_is_discarded(listening: Listening, scp: SlowCommits) -> None:
    """The complete instance before it is answered."""
    sent = store(b"1", message_id=1) + store(b"cut off", message_id=2)[:-3]
    assert [RESPONSE] == commit_after_half_close(listening, scp, sent, 1)
    assert 1 == scp.count


def test_instances_are_read_and_answered_although_reading_was_paused(listening: Listening, scp: SlowCommits) -> None:
    """The end of the input arrives behind more instances than may be uncommitted."""
    number = 3 * MAX_UNCOMMITTED
    with connect(listening) as connection:
        connection.sendall(b"".join(store(b"data set", message_id=index + 1) for index in range(number)))
        connection.shutdown(socket.SHUT_WR)
        for _number in range(number):
            scp.commit(scp.completed.get(timeout=SECONDS))
        assert [RESPONSE] * number == received(connection)


@pytest.mark.parametrize("sent", [b"", store(b"cut off")[:-3], RELEASE_RQ, ABORT, associate()])
def test_a_connection_without_anything_to_answer_is_closed_at_once(
    listening: Listening, scp: SlowCommits, sent: bytes
) -> None:
    """Its association ends, which frees its slot."""
    with connect(listening) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received(connection)
        wait_until(lambda: bool(scp.ended))


def test_a_slot_is_free_after_the_last_response_that_a_peer_does_not_read(
    listening: Listening, scp: SlowCommits
) -> None:
    """The peer has closed its connection completely, so it receives no response."""
    connection = connect(listening)
    connection.sendall(store(b"data set"))
    ticket = scp.completed.get(timeout=SECONDS)
    connection.close()
    scp.commit(ticket)
    wait_until(lambda: bool(scp.ended))
    wait_until(lambda: not listening.server._connections)
