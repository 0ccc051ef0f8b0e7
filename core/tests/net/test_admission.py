"""Limits of connections and associations, overall and for each peer, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net import admission
from dicom_adapter.net.admission import Admission
from support.listening import SECONDS, Listen, Listening, wait_until

# IP addresses of this machine; for the server, they are two peers.
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"


@pytest.fixture(autouse=True)
def few_spare_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "SPARE_CONNECTIONS", 2)
    monkeypatch.setattr(admission, "SPARE_CONNECTIONS_PER_PEER", 1)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(stack: ExitStack, listening: Listening, source: str = HERE) -> socket.socket:
    address = ("127.0.0.1", listening.port)
    return stack.enter_context(socket.create_connection(address, SECONDS, source_address=(source, 0)))


def is_closed(connection: socket.socket) -> bool:
    """Return whether the peer closes the connection instead of waiting for data."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_the_number_of_connections_is_limited(listen: Listen, stack: ExitStack) -> None:
    """A connection above the limit is closed at once. When a connection ends, another is accepted."""
    listening = listen(max_associations=1)
    taken = [connect(stack, listening) for _number in range(3)]
    assert is_closed(connect(stack, listening))
    assert "3 connections are open" == listening.wait_for("connection_refused")["reason"]
    taken[0].close()
    wait_until(lambda: listening.server.admission.connections == 2)
    connect(stack, listening)
    wait_until(lambda: listening.server.admission.connections == 3)
    assert 1 == len(listening.logged("connection_refused"))


def test_one_peer_does_not_use_the_slots_of_others(listen: Listen, stack: ExitStack) -> None:
    """Connections above the limit of one peer are closed, while connections of other peers are accepted."""
    listening = listen(max_associations=10, max_associations_per_peer=1)
    for _number in range(2):
        connect(stack, listening)
    assert is_closed(connect(stack, listening))
    refused = listening.wait_for("connection_refused")
    assert (HERE, "2 connections are open from this address") == (refused["peer"], refused["reason"])
    connect(stack, listening, ELSEWHERE)
    wait_until(lambda: listening.server.admission.connections == 3)


def test_a_waiting_request_receives_a_slot_of_the_same_peer() -> None:
    """A peer at its limit waits until one of its slots is free. Other peers do not wait."""
    given: list[tuple[str, int, int]] = []  # peer, open associations, open associations of the peer

    async def request_slots() -> None:
        limits = Admission(DicomConfig(max_associations=3, max_associations_per_peer=1), asyncio.get_running_loop())
        limits.open_association(HERE)
        limits.request_slot(HERE, lambda *counts: given.append((HERE, *counts)))
        limits.request_slot(ELSEWHERE, lambda *counts: given.append((ELSEWHERE, *counts)))
        limits.open_association(ELSEWHERE)
        assert [(ELSEWHERE, 1, 0)] == given
        limits.close_association(HERE)
        assert [(ELSEWHERE, 1, 0), (HERE, 1, 0)] == given

    asyncio.run(request_slots())
