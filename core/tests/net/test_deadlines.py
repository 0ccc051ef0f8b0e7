"""Deadlines of PDUs and messages: a peer that sends a single byte now and then does not keep its slot."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net import connection as net_connection
from dicom_adapter.net.acceptor import Acceptor
from dicom_adapter.net.deadlines import Deadlines, seconds_between_checks
from dicom_adapter.net.negotiation import negotiate
from support.conversation import (
    COMMAND,
    LAST,
    RELEASE_RQ,
    abort_of,
    associate,
    command_set,
    echo,
    p_data,
    pdu,
    pdv,
    store,
)
from support.listening import SECONDS, Listen

A_DAY = 86_400
SOON = 0.3  # seconds
ACCEPTED = 0x02  # PDU type
TIMES = DicomConfig(idle_timeout=10, pdu_timeout=20, operation_timeout=100)
LONG_VALUE = p_data(pdv(bytes(5000), 0))
BEGINNING = p_data(pdv(command_set(), COMMAND | LAST))


# --- the deadlines ----------------------------------------------------------------------------------------------------


class Talk:
    """An established association under a simulated clock."""

    def __init__(self, *, is_pdu_limited: bool = True) -> None:
        self.acceptor = Acceptor(0)
        self.deadlines = Deadlines(self.acceptor, is_pdu_limited=is_pdu_limited, now=0)
        self.receive(associate(), 0)
        assert self.acceptor.request is not None
        self.acceptor.accept(negotiate(self.acceptor.request.contexts), ("1.2.3.4", "TEST"))

    def receive(self, data: bytes, now: float) -> None:
        self.acceptor.receive(memoryview(data))
        self.deadlines.received(now)

    def move_idle_deadline(self, now: float) -> None:
        """Move only the idle deadline, so that the deadline of a PDU or message becomes the earliest."""
        self.deadlines.received(now)

    @property
    def deadline(self) -> float:
        return self.deadlines.earliest(TIMES)[0]


def test_every_byte_moves_the_idle_deadline() -> None:
    """The deadline of an incomplete PDU is later. A response of the adapter moves the idle deadline, too."""
    talk = Talk()
    assert 0 + 10 == talk.deadline
    talk.receive(echo(), 9)
    assert 9 + 10 == talk.deadline
    talk.receive(echo()[:1], 18)
    assert 18 + 10 == talk.deadline
    talk.deadlines.answered(27)
    assert 27 + 10 == talk.deadline


@pytest.mark.parametrize("split", [1, 5, 6, 11, 12, 13])
def test_a_pdu_has_its_deadline_from_its_first_byte(split: int) -> None:
    """The deadline does not depend on the position at which the PDU is interrupted."""
    talk = Talk()
    talk.receive(echo() + echo()[:split], 5)
    now = 6.0
    for byte in echo()[split:-1]:
        now += 0.01
        talk.receive(bytes([byte]), now)
    assert now + 10 == talk.deadline
    talk.move_idle_deadline(24)
    assert 5 + 20 == talk.deadline
    talk.receive(echo()[-1:], 24)
    assert 24 + 10 == talk.deadline


def test_successive_pdus_each_have_the_full_time() -> None:
    """Each time, the end of a PDU arrives with the beginning of the next one.

    Verified to fail when only the first incomplete PDU is recorded.
    """
    talk, beginning, rest = Talk(), echo()[:3], echo()[3:]
    talk.receive(beginning, 0)
    for number in range(1, 99):
        talk.receive(rest + beginning, number * 9)
    assert 98 * 9 + 10 == talk.deadline
    talk.move_idle_deadline(98 * 9 + 15)
    assert 98 * 9 + 20 == talk.deadline


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([BEGINNING, *[p_data(pdv(b"x", 0))] * 50], id="data set"),
        pytest.param([BEGINNING, *[p_data(pdv(b"", 0))] * 50], id="empty parts of a data set"),
        pytest.param([p_data(pdv(command_set()[:2], COMMAND)), *[p_data(pdv(b"", COMMAND))] * 50], id="command set"),
        pytest.param([p_data(pdv(b"", COMMAND))] * 50, id="empty parts of a command set"),
        pytest.param(
            [p_data(pdv(command_set(0x0020), COMMAND | LAST)), *[p_data(pdv(b"x", 0))] * 50],
            id="data set of another command",
        ),
    ],
)
def test_a_message_has_its_deadline_from_its_first_part(parts: list[bytes]) -> None:
    """Complete PDUs do not move the deadline of their message."""
    talk = Talk()
    talk.receive(echo(), 1)
    for number, part in enumerate(parts):
        talk.receive(part, 2 + number)
    assert 2 + len(parts) - 1 + 10 == talk.deadline
    talk.move_idle_deadline(95)
    assert 2 + 100 == talk.deadline


def test_successive_messages_each_have_the_full_time() -> None:
    """Each time, the end of a message arrives with the beginning of the next one."""
    talk, beginning, rest = Talk(), store(b"data set")[:-20], store(b"data set")[-20:]
    talk.receive(beginning, 0)
    for number in range(1, 30):
        talk.receive(rest + beginning, number * 9)
    assert 29 * 9 + 10 == talk.deadline
    talk.move_idle_deadline(29 * 9 + 95)
    assert 29 * 9 + 100 == talk.deadline


def test_a_pdu_without_a_length_limit_may_take_as_long_as_a_message() -> None:
    """With `max-pdu = 0`, a whole data set may be one PDU.

    When a message begins in this PDU, the deadline of the message replaces the deadline of the PDU.
    """
    talk = Talk(is_pdu_limited=False)
    talk.receive(pdu(0x04, b"", 2**31), 3)
    talk.move_idle_deadline(98)
    assert 3 + 100 == talk.deadline
    talk.receive(pdv(command_set(), COMMAND | LAST), 99)
    talk.move_idle_deadline(190)
    assert 99 + 100 == talk.deadline


def test_a_pause_of_the_adapter_restarts_the_deadlines() -> None:
    """While the adapter does not read, no PDU or message can become complete."""
    talk = Talk()
    talk.receive(BEGINNING + p_data(pdv(b"abc", 0))[:-1], 5)
    talk.deadlines.restart(500)
    talk.move_idle_deadline(509)
    assert 509 + 10 == talk.deadline
    talk.move_idle_deadline(515)
    assert 500 + 20 == talk.deadline


def test_the_deadlines_are_checked_as_often_as_the_shortest_time_limit() -> None:
    """A deadline that begins after a check is not earlier than the next check."""
    assert 10 == seconds_between_checks(TIMES)
    assert 5 == seconds_between_checks(DicomConfig(idle_timeout=10, pdu_timeout=5, operation_timeout=100))


# --- connections ------------------------------------------------------------------------------------------------------


def drip(connection: socket.socket, pieces: Iterator[bytes]) -> bytes:
    """Send one piece after the other until the server sends something, and return everything that it sends."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while not selector.select(0.01):
            connection.sendall(next(pieces))
    received = b""
    while piece := connection.recv(4096):
        received += piece
    return received


def single_bytes(data: bytes) -> Iterator[bytes]:
    """Yield single bytes, then nothing more, as often as `drip` needs a piece."""
    return chain((bytes([byte]) for byte in data), repeat(b""))


@pytest.mark.parametrize(
    ("settings", "pieces", "reason"),
    [
        pytest.param({"pdu_timeout": SOON}, single_bytes(BEGINNING + LONG_VALUE), "a PDU was not", id="PDU"),
        pytest.param({"pdu_timeout": SOON}, single_bytes(RELEASE_RQ[:4]), "a PDU was not", id="header"),
        pytest.param(
            {"operation_timeout": SOON},
            chain([BEGINNING], repeat(p_data(pdv(b"x", 0)))),
            "a message was not",
            id="data set",
        ),
        pytest.param(
            {"operation_timeout": SOON}, repeat(p_data(pdv(b"", COMMAND))), "a message was not", id="command set"
        ),
        pytest.param(
            {"operation_timeout": SOON, "max_pdu": 0},
            chain([pdu(0x04, b"", 10_000)], single_bytes(b"\0\0\0")),
            "a message was not",
            id="PDU without a limit of its length",
        ),
    ],
)
def test_a_slow_peer_is_aborted(
    listen: Listen, settings: dict[str, float], pieces: Iterator[bytes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then, or a small PDU, does not keep an association open.

    Verified to fail when only `idle-timeout` is checked.
    """
    monkeypatch.setattr(net_connection, "CLOSE_SECONDS", SOON)
    timeouts = {"idle_timeout": A_DAY, "pdu_timeout": A_DAY, "operation_timeout": A_DAY, "association_timeout": A_DAY}
    listening = listen(**{**timeouts, **settings})
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as connection:
        connection.sendall(associate())
        header = connection.recv(6, socket.MSG_WAITALL)
        assert ACCEPTED == header[0]
        connection.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)
        assert (0, 0) == abort_of(drip(connection, pieces))
    assert listening.wait_for("association_timed_out")["reason"].startswith(reason)
    assert ["aborted"] == [closed.how for closed in listening.decisions.ended]
