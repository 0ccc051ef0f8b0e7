"""The end of an association frees its slot at once. The connection is closed soon, by either side."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dicom_adapter.api.receiving import AssociationDecision, AssociationRequest, Rejection
from dicom_adapter.net import connection as net_connection
from dicom_adapter.net import server as net_server
from dicom_adapter.net.pdu import HEADER
from support.conversation import RELEASE_RQ, associate, p_data, pdv
from support.listening import SECONDS, Listen, Listening, wait_until

ACCEPTED, REJECTED, RELEASED, ABORTED = 0x02, 0x03, 0x06, 0x07  # PDU types
A_DAY = 86_400
VIOLATION = p_data(pdv(b"x", 2, 77))  # a presentation context that was not proposed


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def closes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the server wait, longer than the test, until the peer closes an ended connection."""
    monkeypatch.setattr(net_connection, "CLOSE_SECONDS", A_DAY)


@pytest.fixture
def closes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_connection, "CLOSE_SECONDS", 0.05)


def connect(stack: ExitStack, listening: Listening) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", listening.port), SECONDS))


def exchange(connection: socket.socket, request: bytes) -> int:
    """Send a request and return the type of the PDU that answers it."""
    connection.sendall(request)
    header = connection.recv(HEADER.size, socket.MSG_WAITALL)
    kind, length = HEADER.unpack(header)
    connection.recv(length, socket.MSG_WAITALL)
    return int(kind)


def open_association(stack: ExitStack, listening: Listening) -> socket.socket:
    connection = connect(stack, listening)
    assert ACCEPTED == exchange(connection, associate())
    return connection


@pytest.mark.usefixtures("closes_late")
@pytest.mark.parametrize(
    ("last", "answer", "how"),
    [(RELEASE_RQ, RELEASED, "released"), (VIOLATION, ABORTED, "aborted")],
    ids=["release", "violation"],
)
def test_an_ended_association_frees_its_slot_although_the_peer_does_not_close(
    listen: Listen, stack: ExitStack, last: bytes, answer: int, how: str
) -> None:
    """Some devices expect the acceptor to close the connection.

    `decisions.open` has the numbers of open associations at each request: all of them, and those of the peer.
    Verified to fail when the slot is freed at the end of the connection.
    """
    listening = listen(max_associations=1, association_timeout=A_DAY)
    for _number in range(3):
        assert answer == exchange(open_association(stack, listening), last)
    assert [(0, 0)] * 3 == listening.decisions.open
    wait_until(lambda: len(listening.decisions.ended) == 3)
    assert {how} == {closed.how for closed in listening.decisions.ended}


@pytest.mark.usefixtures("closes_late")
def test_an_association_aborted_for_inactivity_frees_its_slot(listen: Listen, stack: ExitStack) -> None:
    listening = listen(max_associations=1, association_timeout=A_DAY, idle_timeout=0.2)
    assert ABORTED == exchange(open_association(stack, listening), b"")
    open_association(stack, listening)
    assert [(0, 0)] * 2 == listening.decisions.open


@pytest.mark.usefixtures("closes_late")
def test_a_request_followed_by_a_violation_while_it_waits_takes_no_slot(listen: Listen, stack: ExitStack) -> None:
    """The association is aborted before the requestor gets a slot. The next request gets the slot."""
    listening = listen(max_associations=1, association_timeout=A_DAY)
    first = open_association(stack, listening)
    assert ABORTED == exchange(connect(stack, listening), associate() + VIOLATION)
    assert RELEASED == exchange(first, RELEASE_RQ)
    open_association(stack, listening)
    assert [(0, 0)] * 2 == listening.decisions.open


@pytest.mark.usefixtures("closes_soon")
@pytest.mark.parametrize("last", [RELEASE_RQ, VIOLATION], ids=["release", "violation"])
def test_the_connection_of_an_ended_association_is_closed_soon(listen: Listen, stack: ExitStack, last: bytes) -> None:
    """The limit does not depend on `association-timeout`.

    Verified to fail when the end of the association starts no timer.
    """
    connection = open_association(stack, listen(association_timeout=A_DAY))
    exchange(connection, last)
    assert b"" == connection.recv(1)


@pytest.mark.usefixtures("closes_soon")
@pytest.mark.parametrize(
    "request_pdu", [associate(called=b"OTHER"), associate(application="1.2.3"), VIOLATION], ids=str
)
def test_the_connection_of_a_rejected_or_invalid_request_is_closed_soon(
    listen: Listen, stack: ExitStack, request_pdu: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(_id: str, request: AssociationRequest, *_open: int) -> AssociationDecision:
        rejection = Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED if request.called_ae_title == "OTHER" else None
        return AssociationDecision(rejection=rejection)

    listening = listen(association_timeout=A_DAY)
    monkeypatch.setattr(listening.decisions, "decide", decide)
    connection = connect(stack, listening)
    assert exchange(connection, request_pdu) in (REJECTED, ABORTED)
    assert b"" == connection.recv(1)


@pytest.mark.usefixtures("closes_late")
def test_ended_connections_do_not_count_against_the_limits(
    listen: Listen, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended connections have a separate limit, at which the oldest is closed.

    Verified to fail when an ended connection still counts as open, or no ended connection is closed.
    """
    monkeypatch.setattr(net_server, "MAX_ENDED_CONNECTIONS", 2)
    listening = listen(max_associations=1, max_associations_per_peer=1, association_timeout=A_DAY)
    ended = []
    for _number in range(20):
        ended.append(open_association(stack, listening))
        assert RELEASED == exchange(ended[-1], RELEASE_RQ)
    assert [b""] * 18 == [connection.recv(1) for connection in ended[:18]]
    for connection in ended[18:]:
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    assert [] == listening.logged("connection_refused")


@pytest.mark.usefixtures("closes_soon")
def test_connections_without_an_association_do_not_delay_a_stop(listen: Listen, stack: ExitStack) -> None:
    """A stop waits only for open associations, not for ended associations or connections without data.

    Verified to fail when a stop waits for all connections.
    """
    listening = listen(association_timeout=A_DAY)
    connect(stack, listening)
    wait_until(lambda: listening.server.admission.connections == 1)
    assert RELEASED == exchange(open_association(stack, listening), RELEASE_RQ)
    listening.server.stop(A_DAY)
