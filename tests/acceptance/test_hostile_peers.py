"""Peers that stall, flood or disconnect cause no leak of resources and do not delay other peers."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dicom_adapter.net import scu
from dicom_adapter.net.address import Address
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE
from support.conversation import COMMAND, LAST, associate, command_set, echo, p_data, pdu, pdv

CONFIGURATION = f"""
[dicom]
association-timeout = 2
idle-timeout = 2
max-associations = 5
{STORAGE}
[ae-titles.LUNG.settings]
pipeline-a = "p"
"""
CONNECTS = int(os.environ.get("DICOM_ADAPTER_CONNECTS", "5000"))  # 100000 in manual runs
STALLED = int(os.environ.get("DICOM_ADAPTER_STALLED", "1000"))  # 10000 in manual runs
OPEN_AT_ONCE = 200  # number of stalled connections, more than the service accepts
MAX_THREADS = 40  # threads of a receiver: the network, storing, supervision
MAX_GROWTH_KB = 30_000  # of the receiver's memory


@pytest.fixture
def service(launch_service: LaunchService) -> LaunchedService:
    launched = launch_service(CONFIGURATION)
    verify(launched)
    return launched


def verify(service: LaunchedService) -> None:
    """Check that another peer is still served."""
    scu.echo(Address(ae_title="LUNG", host="127.0.0.1", port=service.port()), "SENDER", timeout=10)


def connect(service: LaunchedService) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port()), timeout=20)


def reset(connection: socket.socket) -> None:
    """Close with a reset instead of an orderly shutdown."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Receiver:
    """The resources that the receiver process uses."""

    def __init__(self, service: LaunchedService) -> None:
        [entry] = service.logged("process_started", name="receiver")
        self._folder = Path(f"/proc/{entry['child']}")

    def field(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    @property
    def sockets(self) -> int:
        return sum(_is_socket(entry) for entry in (self._folder / "fd").iterdir())

    def wait_for_sockets(self, most: int, seconds: float = 20) -> None:
        """Wait until at most this number of sockets is open."""
        deadline = time.monotonic() + seconds
        while self.sockets > most:
            assert time.monotonic() < deadline, f"{self.sockets} sockets are open"
            time.sleep(0.02)


def _is_socket(entry: Path) -> bool:
    try:
        return str(entry.readlink()).startswith("socket:")
    except FileNotFoundError:  # the descriptor was closed during the listing
        return False


def test_connections_without_data_leak_no_resources(service: LaunchedService) -> None:
    """Many connections are opened, and closed normally or with a reset, as by probes of load balancers."""
    receiver = Receiver(service)
    sockets, before = receiver.sockets, receiver.field("VmRSS")
    for number in range(CONNECTS):
        connection = connect(service)
        if number % 2:
            reset(connection)
        else:
            connection.close()
    receiver.wait_for_sockets(sockets)
    verify(service)
    assert receiver.field("Threads") <= MAX_THREADS
    assert receiver.field("VmRSS") - before < MAX_GROWTH_KB


def silent(connection: socket.socket) -> None:
    """Send nothing."""


def stalled_in_header(connection: socket.socket) -> None:
    connection.sendall(associate()[:3])


def stalled_in_request(connection: socket.socket) -> None:
    connection.sendall(associate()[:-10])


def stalled_before_message(connection: socket.socket) -> None:
    establish(connection)


def stalled_in_pdu(connection: socket.socket) -> None:
    establish(connection)
    connection.sendall(pdu(0x04, b"", 1000))


def stalled_in_data_set(connection: socket.socket) -> None:
    establish(connection)
    connection.sendall(p_data(pdv(command_set(), COMMAND | LAST)) + p_data(pdv(bytes(1000), 0)))


def establish(connection: socket.socket) -> None:
    connection.sendall(associate())
    assert b"\x02" == connection.recv(6)[:1]  # A-ASSOCIATE-AC


@pytest.mark.parametrize(
    "stall",
    [silent, stalled_in_header, stalled_in_request, stalled_before_message, stalled_in_pdu, stalled_in_data_set],
)
def test_a_stalled_peer_is_disconnected_after_the_timeout(
    service: LaunchedService, stall: Callable[[socket.socket], None]
) -> None:
    """The peer stalls at any point of the protocol.

    Verified to fail when the timer runs only between PDUs.
    """
    receiver = Receiver(service)
    sockets = receiver.sockets
    connections = [connect(service) for _number in range(5)]
    for connection in connections:
        stall(connection)
    for connection in connections:
        while connection.recv(4096):  # possibly a response and an A-ABORT, then the end
            pass
        connection.close()
    receiver.wait_for_sockets(sockets)
    verify(service)


def test_stalled_association_requests_leak_no_resources(service: LaunchedService) -> None:
    """Many peers send a part of a request. Peers above the limit are refused, the other peers are disconnected in time.

    Verified to fail when associations have no time limit (`association-timeout`).
    """
    receiver = Receiver(service)
    sockets, before = receiver.sockets, receiver.field("VmRSS")
    stalled: deque[socket.socket] = deque()
    for _number in range(STALLED):
        stalled.append(connect(service))
        with suppress(ConnectionError):  # the connection is above the limit and refused
            stalled_in_request(stalled[-1])
        if len(stalled) > OPEN_AT_ONCE:
            reset(stalled.popleft())
    assert receiver.field("Threads") <= MAX_THREADS
    assert receiver.field("VmRSS") - before < MAX_GROWTH_KB
    receiver.wait_for_sockets(sockets)  # although the last connections are still open on this side
    for connection in stalled:
        reset(connection)
    verify(service)


def test_silent_connections_are_limited_in_number(service: LaunchedService) -> None:
    """A connection beyond the limit is closed at once. Threads and memory do not grow with connections."""
    receiver = Receiver(service)
    before = receiver.field("VmRSS")
    connections = [connect(service) for _number in range(150)]
    service.wait_for("connection_refused")
    assert receiver.field("Threads") <= MAX_THREADS
    assert receiver.field("VmRSS") - before < MAX_GROWTH_KB
    for connection in connections:
        reset(connection)
    receiver.wait_for_sockets(20)
    verify(service)


def test_a_peer_that_never_reads_responses_is_throttled(service: LaunchedService) -> None:
    """Responses do not accumulate in memory: the peer's requests are not read either, and the peer is disconnected."""
    receiver = Receiver(service)
    before = receiver.field("VmRSS")
    with connect(service) as connection:
        establish(connection)
        flood = echo() * 1000
        with pytest.raises(OSError):  # sending times out, or the connection is closed
            for _number in range(10_000):
                connection.sendall(flood)
    assert receiver.field("VmRSS") - before < MAX_GROWTH_KB
    verify(service)


@pytest.mark.parametrize("kind", [0x01, 0x02, 0x04], ids=["A-ASSOCIATE-RQ", "A-ASSOCIATE-AC", "P-DATA-TF"])
def test_the_length_of_a_pdu_is_checked_before_it_is_read(service: LaunchedService, kind: int) -> None:
    """A header announces two gigabytes. No memory is allocated for the PDU, and the connection is closed at once."""
    with connect(service) as connection:
        if kind == 0x04:
            establish(connection)
        connection.sendall(pdu(kind, b"", 2**31))
        response = b""
        while piece := connection.recv(4096):
            response += piece
        assert b"\x07" == response[-10:-9]  # A-ABORT
    service.wait_for("protocol_violated")
