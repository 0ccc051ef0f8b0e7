"""Send a case to a receiver over TCP, and describe in one line how the receiver answers."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from support.conversation import CT, RELEASE_RQ, associate, context, echo, store

CONNECT_S = 60.0  # longest wait for a connection, or for a free association
TIMEOUT_S = 10.0  # for an answer: some receivers never answer what they cannot parse
MANY = 9  # from this number, contexts are counted instead of listed
ACCEPT, REJECT, DATA, RELEASED, ABORT = 0x02, 0x03, 0x04, 0x06, 0x07  # PDU types
STATUS = struct.pack("<HHI", 0x0000, 0x0900, 2)  # the header of the element Status in a command set


class Closed(Exception):
    """The receiver closed the connection."""


class Conversation:
    """A connection to a receiver."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), CONNECT_S)
        self._socket.settimeout(TIMEOUT_S)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        with suppress(OSError):  # the answer, or the end of the connection, is read next
            self._socket.sendall(data)

    def end_sending(self) -> None:
        with suppress(OSError):  # the receiver closed the connection
            self._socket.shutdown(socket.SHUT_WR)

    def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU. Raises Closed, or TimeoutError."""
        kind, length = struct.unpack(">BxI", self._read(6))
        return kind, self._read(length)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self._socket.recv(size - len(data))
            except ConnectionError:
                piece = b""
            if not piece:
                raise Closed
            data += piece
        return data

    def release(self) -> None:
        """Release the association, so that it does not count for the limit of the receiver any longer."""
        self.send(RELEASE_RQ)
        self.answer()

    def answer(self) -> str:
        """Return a description of the next PDU."""
        try:
            return describe(*self.receive())
        except Closed:
            return "closed"
        except TimeoutError:
            return "silent"


def describe(kind: int, body: bytes) -> str:
    """Describe a PDU (PS3.8 section 9.3) in a few words, without what depends on the implementation."""
    if kind == ACCEPT:
        contexts = list(_contexts(body))
        return "accepted " + (", ".join(contexts) if len(contexts) < MANY else f"{len(contexts)} contexts")
    if kind == REJECT:
        return f"rejected {body[1]}/{body[2]}/{body[3]}"
    if kind == DATA:
        place = body.find(STATUS)
        return f"status 0x{struct.unpack_from('<H', body, place + 8)[0]:04X}" if place >= 0 else "data"
    return {RELEASED: "released", ABORT: "aborted"}.get(kind, f"PDU 0x{kind:02X}")


def _contexts(body: bytes) -> Iterator[str]:
    """Describe the presentation contexts of an A-ASSOCIATE-AC: id, and transfer syntax or the reason."""
    at = 68
    while at + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        if kind == 0x21:
            number, result = body[at + 4], body[at + 6]
            syntax = body[at + 12 : at + 4 + length].rstrip(b"\0").decode("ascii", "replace")
            yield f"{number}: {syntax}" if result == 0 else f"{number}: no ({result})"
        at += 4 + length


def when_free(exchange: Callable[[], str]) -> str:
    """Repeat an exchange while the receiver has too many associations: some receivers end associations late."""
    end = time.monotonic() + CONNECT_S
    while (answer := exchange()) == "rejected 2/3/2" and time.monotonic() < end:
        time.sleep(0.5)
    return answer


def store_data_set(port: int, called: str, syntax: str, data: bytes, sop_instance_uid: str) -> str:
    """Send one data set in an association of its own. Return the status, or how the receiver ended the association."""
    with Conversation(port) as conversation:
        conversation.send(associate(context(1, CT, (syntax,)), called=called.encode()))
        accepted = conversation.answer()
        if accepted != f"accepted 1: {syntax}":
            return accepted
        conversation.send(store(data, pieces=-(-len(data) // 8192) or 1, instance=sop_instance_uid))
        status = conversation.answer()
        conversation.release()
        return status


def request_association(port: int, data: bytes) -> str:
    """Send the first bytes of a connection. Return the answer, and the status of a C-ECHO if context 3 was accepted."""
    with Conversation(port) as conversation:
        conversation.send(data)
        if data[:1] != b"\x01":  # a receiver may wait for the rest of what is no PDU
            conversation.end_sending()
        answers = [conversation.answer()]
        if "3: 1" in answers[0] or "contexts" in answers[0]:  # context 3 has a transfer syntax, or is only counted
            conversation.send(echo())
            answers.append(conversation.answer())
        if answers[-1].startswith(("accepted", "status")):
            conversation.release()
        return "; ".join(answers)
