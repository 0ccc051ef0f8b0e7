"""One association with a DICOM node as requestor: blocking, on the thread of the caller.

Data sets are sent as they are, without a copy in Python: one system call sends the headers of many PDUs interleaved
with parts of a memoryview.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import frozen

from dicom_adapter import Retriable
from dicom_adapter_delivery import dicom_wire as wire
from dicom_adapter_delivery.dicom_file import Piece
from dicom_adapter_delivery.dicom_settings import DicomSettings
from dicom_adapter_delivery.dicom_tls import tls_connection
from dicom_adapter_delivery.dicom_wire import InvalidBytes, Message, Pair
from dicom_adapter_delivery.dicom_words import describe_loss, end_by_peer

VERIFICATION = Pair("1.2.840.10008.1.1", "1.2.840.10008.1.2")  # with the default transfer syntax
MOST_VALUES = 500  # fragments in one system call: each has two buffers, and the system accepts 1024 buffers
RELEASE_S = 2.0  # time limit for the answer to A-RELEASE-RQ
RECEIVE_BYTES = 1 << 13  # of one `recv`: most responses are shorter
LARGEST_MESSAGE = 16 << 20  # bytes of a data set from the peer: reports of storage commitment are smaller
# A node may write its response in two pieces, and send the second one only after the TCP acknowledgement of the first
# (RFC 896), which is delayed by 40 ms (RFC 1122 section 4.2.3.2) without this option. Linux resets the option, so
# it is set before each `recv`; other systems do not have it.
QUICK_ACKNOWLEDGEMENT: int | None = getattr(socket, "TCP_QUICKACK", None)


class AssociationGone(Retriable):
    """The peer has aborted the association, closed the connection, or does not answer."""

    def __init__(self, message: str, *, by_peer: bool = False) -> None:
        super().__init__(message)
        self.by_peer = by_peer  # True: the peer ended the association, perhaps earlier, while it was not in use


@frozen(kw_only=True)
class DicomPeer:
    """The address of a DICOM node, and the limits of associations with it."""

    settings: DicomSettings

    def __str__(self) -> str:
        return f"{self.settings.ae_title}@{self.settings.host}:{self.settings.port}"


class OutgoingAssociation:
    """An established association. Used by one thread at a time, except `abort` and `close_connection`."""

    def __init__(self, peer: DicomPeer, connection: socket.socket, pairs: Sequence[Pair]) -> None:
        """Request an association over a connection. Raises Retriable; then the caller closes the connection."""
        self._peer = peer
        self._socket = connection
        self._is_plain = not isinstance(connection, ssl.SSLSocket)
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self._received = bytearray()
        self._message_id = 0
        self._gone = False
        settings = peer.settings
        connection.settimeout(settings.connect_timeout)
        deadline = time.monotonic() + settings.connect_timeout
        self._send([wire.associate_request(settings.ae_title, settings.calling_ae_title, pairs)])
        acceptance = self._acceptance(*self._read_pdu(deadline))
        connection.settimeout(settings.response_timeout)
        self.version_name = acceptance.version_name  # of the peer's implementation; not verified text
        limit = min(acceptance.max_pdu or settings.max_pdu, settings.max_pdu) - wire.PDV_HEADER.size
        self._fragment_bytes = max(2, limit - limit % 2)  # of data in one P-DATA-TF: an even number
        numbers = {pair: 2 * number + 1 for number, pair in enumerate(pairs)}
        self._ids: Mapping[Pair, int] = {
            pair: number for pair, number in numbers.items() if acceptance.results.get(number) == wire.ACCEPTED
        }
        self.refused: Mapping[Pair, str] = {  # pairs that the peer does not accept, with its reason
            pair: wire.CONTEXT_REASONS.get(acceptance.results.get(number, 2), "no reason given")
            for pair, number in numbers.items()
            if pair not in self._ids
        }
        self.began = time.monotonic()
        self.is_reused = False  # an earlier upload has used this association

    @property
    def accepted(self) -> Iterable[Pair]:
        return self._ids.keys()

    @property
    def is_usable(self) -> bool:
        """Return whether the association is established, as far as is known without a system call."""
        return not self._gone

    def accepts(self, pair: Pair) -> bool:
        return pair in self._ids

    # --- services

    def store(self, pair: Pair, sop_instance_uid: str, pieces: Iterator[Piece], deadline: float) -> Message:
        """Send one data set with C-STORE (PS3.7 section 9.1.1) and return the response.

        If `pieces` raises an error after the first piece, the association is aborted, because the peer
        has received a part of the data set.
        """
        context_id, message_id = self._ids[pair], self._next_message_id()
        request = wire.encode_command(
            {
                wire.AFFECTED_SOP_CLASS_UID: pair.sop_class_uid,
                wire.COMMAND_FIELD: wire.C_STORE_RQ,
                wire.MESSAGE_ID: message_id,
                wire.PRIORITY: wire.MEDIUM_PRIORITY,
                wire.DATA_SET_TYPE: wire.HAS_DATA_SET,
                wire.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
            }
        )
        first = next(pieces)
        try:
            before = self._fragments(context_id, memoryview(request), is_last=True, kind=wire.COMMAND)
            for buffers in self._batches(context_id, first, pieces, before):
                self._send(buffers)
                self._check_time(deadline)
        except BaseException:
            self.abort()
            raise
        return self._response(context_id, message_id, wire.C_STORE_RQ, deadline)

    def echo(self, pair: Pair = VERIFICATION) -> Message:
        """Send a C-ECHO (PS3.7 section 9.1.5) and return the response."""
        return self.exchange(pair, wire.C_ECHO_RQ, {wire.AFFECTED_SOP_CLASS_UID: pair.sop_class_uid})

    def exchange(self, pair: Pair, request: int, elements: Mapping[int, int | str], data_set: bytes = b"") -> Message:
        """Send a request with a short data set, or without one, and return the response."""
        context_id, message_id = self._ids[pair], self._next_message_id()
        own = {wire.COMMAND_FIELD: request, wire.MESSAGE_ID: message_id}
        self._send_message(context_id, {**elements, **own}, data_set)
        deadline = time.monotonic() + self._peer.settings.response_timeout
        return self._response(context_id, message_id, request, deadline)

    def wait_for_request(self, seconds: float) -> Message | None:
        """Return a request of the peer, such as an N-EVENT-REPORT; None if there is none within `seconds`."""
        try:
            if not self._received:
                self._socket.settimeout(seconds)
                self._received += self._socket.recv(RECEIVE_BYTES)
            if not self._received:
                self._gone = True
                return None
            self._socket.settimeout(self._peer.settings.response_timeout)
            return self._read_message(time.monotonic() + self._peer.settings.response_timeout)
        except TimeoutError:
            return None
        except (OSError, ValueError, AssociationGone):
            self._gone = True
            return None

    def reply(self, request: Message, elements: Mapping[int, int | str]) -> None:
        """Send the response to a request of the peer."""
        own = {
            wire.COMMAND_FIELD: request.number(wire.COMMAND_FIELD) | wire.RESPONSE,
            wire.MESSAGE_ID_RESPONDED_TO: request.number(wire.MESSAGE_ID),
        }
        self._send_message(request.context_id, {**elements, **own}, b"")

    def _send_message(self, context_id: int, elements: Mapping[int, int | str], data_set: bytes) -> None:
        kind = wire.HAS_DATA_SET if data_set else wire.NO_DATA_SET
        command = memoryview(wire.encode_command({**elements, wire.DATA_SET_TYPE: kind}))
        self._send(self._fragments(context_id, command, is_last=True, kind=wire.COMMAND))
        step = MOST_VALUES * self._fragment_bytes
        for at in range(0, len(data_set), step):
            part = memoryview(data_set)[at : at + step]
            self._send(self._fragments(context_id, part, is_last=at + step >= len(data_set)))

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    # --- end of the association

    def is_alive(self) -> bool:
        """Return whether the peer has neither released nor aborted the association nor closed the connection."""
        if self._gone or self._received:
            return False
        if self._is_plain and not self._readable.poll(0):  # TLS may have read ahead, or have a message of its own
            return True
        try:
            self._socket.settimeout(0)
            self._received += self._socket.recv(RECEIVE_BYTES)  # b"" at the end of the connection
            self._gone = True
        except (BlockingIOError, ssl.SSLWantReadError):
            self._socket.settimeout(self._peer.settings.response_timeout)
        except OSError:
            self._gone = True
        return not self._gone

    def release(self) -> None:
        """Release the association in order, within RELEASE_S, and close the connection."""
        try:
            if self.is_alive():
                self._socket.settimeout(RELEASE_S)
                self._send([wire.PDU_HEADER.pack(wire.RELEASE_RQ, 4) + bytes(4)])
                self._read_pdu(time.monotonic() + RELEASE_S)  # A-RELEASE-RP; anything else ends the association, too
        except (Retriable, InvalidBytes, OSError):
            pass  # the association has no unfinished work, and the connection is closed in any case
        finally:
            self.close_connection()

    def abort(self) -> None:
        """Abort the association and close the connection. Another thread that uses it gets AssociationGone."""
        self._gone = True
        try:
            self._socket.settimeout(0)
            self._socket.send(wire.abort_request())
        except (OSError, ValueError):
            pass  # the connection is closed, or the peer does not read: it notices the end of the connection
        self.close_connection()

    def close_connection(self) -> None:
        self._gone = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for the socket
        except OSError:
            pass  # already closed by the peer
        self._socket.close()

    # --- sending

    def _fragments(
        self, context_id: int, content: memoryview, *, is_last: bool, kind: int = 0
    ) -> list[bytes | memoryview]:
        """Return the P-DATA-TFs of a command or of a piece of a data set, as buffers.

        `kind` is wire.COMMAND for a command, 0 for a data set.
        """
        size = self._fragment_bytes  # the lengths of PDU (+ 6) and PDV (+ 2) also count the headers within them
        whole = wire.DATA_HEADER.pack(wire.P_DATA, size + 6, size + 2, context_id, kind)
        buffers: list[bytes | memoryview] = []
        at, end = 0, len(content)
        while end - at > size:
            buffers += (whole, content[at : at + size])
            at += size
        rest = end - at
        control = kind | (wire.LAST if is_last else 0)
        buffers += (wire.DATA_HEADER.pack(wire.P_DATA, rest + 6, rest + 2, context_id, control), content[at:])
        return buffers

    def _batches(
        self, context_id: int, piece: Piece, pieces: Iterator[Piece], before: list[bytes | memoryview]
    ) -> Iterator[list[bytes | memoryview]]:
        """Yield the buffers for each system call; `before` is sent together with the first ones."""
        step = MOST_VALUES * self._fragment_bytes
        while True:
            content, is_last_piece = piece
            for at in range(0, max(1, len(content)), step):
                is_last = is_last_piece and at + step >= len(content)
                yield before + self._fragments(context_id, content[at : at + step], is_last=is_last)
                before = []
            if is_last_piece:
                return
            piece = next(pieces)

    def _send(self, buffers: list[bytes | memoryview]) -> None:
        try:
            if not self._is_plain:
                self._socket.sendall(b"".join(buffers))  # TLS has no sendmsg
                return
            left = sum(map(len, buffers))
            while True:
                sent = self._socket.sendmsg(buffers)
                left -= sent
                if not left:
                    return
                buffers = wire.without_first(buffers, sent)
        except TimeoutError:
            raise self._timed_out("accepted no data") from None
        except (OSError, ValueError) as failure:  # ValueError: closed by another thread
            raise self._gone_because(self._reason_of_abort() or describe_loss(failure)) from None

    # --- receiving

    def _response(self, context_id: int, message_id: int, request: int, deadline: float) -> Message:
        """Return the response to a request. Raises AssociationGone."""
        deadline = min(deadline, time.monotonic() + self._peer.settings.response_timeout)
        try:
            message = self._read_message(deadline)
            wire.require_response(message, context_id, message_id, request)
        except InvalidBytes as defect:
            self.abort()
            raise AssociationGone(f"{self._peer} violates the protocol: {defect}") from None
        return message

    def _read_message(self, deadline: float) -> Message:
        """Return the next message of the peer. Raises InvalidBytes or AssociationGone."""
        command, data_set = bytearray(), bytearray()
        elements: dict[int, bytes] | None = None
        while True:
            body = self._read_data_pdu(deadline)
            for context_id, control, fragment in wire.data_values(body):
                if bool(control & wire.COMMAND) is (elements is not None):
                    raise InvalidBytes("command and data set of a message are not in order")
                target = command if elements is None else data_set
                target += fragment
                if len(target) > LARGEST_MESSAGE:
                    raise InvalidBytes(f"a message has more than {LARGEST_MESSAGE} bytes")
                if not control & wire.LAST:
                    continue
                if elements is None:
                    elements = wire.decode_command(bytes(command))
                    has_data_set = elements.get(wire.DATA_SET_TYPE) != wire.NO_DATA_SET.to_bytes(2, "little")
                    if has_data_set:
                        continue
                return Message(context_id=context_id, command=elements, data_set=bytes(data_set))

    def _read_data_pdu(self, deadline: float) -> bytes:
        kind, body = self._read_pdu(deadline)
        if kind != wire.P_DATA:
            raise self._gone_because(end_by_peer(kind, body))
        return body

    def _acceptance(self, kind: int, body: bytes) -> wire.Acceptance:
        try:
            if kind == wire.ASSOCIATE_RJ:
                raise Retriable(f"{self._peer} rejected the association: {wire.describe_rejection(body)}")
            if kind != wire.ASSOCIATE_AC:
                raise Retriable(f"{self._peer} did not accept the association: {end_by_peer(kind, body)}")
            return wire.parse_acceptance(body)
        except InvalidBytes as defect:
            raise Retriable(f"{self._peer} violates the protocol: {defect}") from None

    def _read_pdu(self, deadline: float) -> tuple[int, bytes]:
        """Return type and content of the next PDU. Raises AssociationGone."""
        kind, length = wire.PDU_HEADER.unpack(self._read(wire.PDU_HEADER.size, deadline))
        limit = wire.MAX_ASSOCIATE_BYTES if kind == wire.ASSOCIATE_AC else wire.MAX_RECEIVED_PDU
        if not wire.ASSOCIATE_RQ <= kind <= wire.ABORT or length > limit:
            self.abort()
            raise AssociationGone(f"{self._peer} does not answer as a DICOM node; check host and port")
        return kind, self._read(length, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        received = self._received
        while len(received) < count:
            try:
                if QUICK_ACKNOWLEDGEMENT is not None:
                    self._socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACKNOWLEDGEMENT, 1)
                piece = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                raise self._timed_out("not answered") from None
            except (OSError, ValueError) as failure:
                raise self._gone_because(describe_loss(failure)) from None
            if not piece:
                raise self._gone_because("it closed the connection")
            received += piece
            self._check_time(deadline)
        content = bytes(received[:count])
        del received[:count]
        return content

    def _check_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise self._gone_because("the timeout was exceeded", by_peer=False)

    def _timed_out(self, what: str) -> AssociationGone:
        return self._gone_because(f"it has {what} for {self._socket.gettimeout():g} seconds", by_peer=False)

    def _reason_of_abort(self) -> str:
        """Return the reason why the peer does not read any more, if it has sent one."""
        try:
            self._socket.settimeout(0)
            self._received += self._socket.recv(RECEIVE_BYTES)
            kind, length = wire.PDU_HEADER.unpack_from(self._received)
            return end_by_peer(kind, bytes(self._received[6 : 6 + length]))
        except Exception:  # noqa: BLE001 - the reason is only for the message
            return ""

    def _gone_because(self, reason: str, *, by_peer: bool = True) -> AssociationGone:
        self._gone = True
        return AssociationGone(f"{self._peer}: the association was lost: {reason}", by_peer=by_peer)


def connect(peer: DicomPeer, pairs: Sequence[Pair]) -> OutgoingAssociation:
    """Open an association with one presentation context for each pair. Raises Retriable."""
    settings = peer.settings
    try:
        connection = socket.create_connection((settings.host, settings.port), settings.connect_timeout)
    except (OSError, UnicodeError) as failure:  # UnicodeError: a name that is no host name
        raise Retriable(f"{peer} cannot be reached: {describe_loss(failure)}") from None
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = tls_connection(str(peer), connection, settings)
        return OutgoingAssociation(peer, connection, pairs)
    except BaseException:
        connection.close()
        raise
