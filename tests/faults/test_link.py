"""The link to a destination forwards bytes, and its faults have their effects."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from random import Random

import pytest

from faults.link import DestinationLink
from support.restartable import free_ports

SECONDS = 20.0


@pytest.fixture
def link() -> Iterator[DestinationLink]:
    """A link to a server that sends back what it receives."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        [port] = free_ports(1)
        made = DestinationLink(port, server.getsockname()[1], Random(1))
        made.open()
        yield made
        made.close()


def echo(server: socket.socket) -> None:
    while True:
        try:
            connection, _address = server.accept()
        except OSError:
            return  # the test has ended
        threading.Thread(target=send_back, args=(connection,), daemon=True).start()


def send_back(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(100):
                connection.sendall(data)
        except OSError:
            pass  # the link has reset the connection


def exchange(link: DestinationLink, sent: bytes) -> bytes:
    """Send bytes, and return what is received until the end."""
    received = b""
    with socket.create_connection(("127.0.0.1", link.port), SECONDS) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(100):
            received += data
    return received


def test_link_passes_bytes_on(link: DestinationLink) -> None:
    assert b"hello" == exchange(link, b"hello")


def test_slow_link_waits_before_each_piece(link: DestinationLink) -> None:
    """One piece in each direction."""
    began = time.monotonic()
    with link.with_faults(pause=0.05):
        assert b"hello" == exchange(link, b"hello")
    assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize("direction", ["there", "back"])
def test_breaking_link_resets_the_connection(link: DestinationLink, direction: str) -> None:
    with link.with_faults(**{direction: (1, 4)}), pytest.raises(ConnectionResetError):
        exchange(link, b"hello")
    assert b"hello" == exchange(link, b"hello")


def test_unavailable_link_answers_with_503(link: DestinationLink) -> None:
    with link.with_faults(is_unavailable=True):
        assert exchange(link, b"POST / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503 ")


def test_closed_link_refuses_connections(link: DestinationLink) -> None:
    with link.closed(), pytest.raises(ConnectionRefusedError):
        exchange(link, b"hello")
    assert b"hello" == exchange(link, b"hello")
