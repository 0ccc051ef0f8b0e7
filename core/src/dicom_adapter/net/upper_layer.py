"""The DICOM upper layer for TCP/IP, the acceptor's side (PS3.8 section 9.2): bytes in, indications and bytes out.

No socket, thread or clock in here. Who has these feeds what arrives to `receive`, sends what `take_outgoing` gives,
closes the connection when `is_to_close` says so, and calls `artim_expired` when `artim_runs` was true for too long.

    state   PS3.8 tables 9-1 to 9-5
    Sta2    transport connection open, awaiting A-ASSOCIATE-RQ          Sta1, idle, is before and after the
    Sta3    awaiting the local A-ASSOCIATE response                     life of an `UpperLayer`; the others
    Sta6    association established, ready for data transfer            belong to requestors, and to who
    Sta8    awaiting the local A-RELEASE response                       releases an association itself
    Sta13   awaiting the transport connection's close
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TypeAlias

from attrs import frozen

from dicom_adapter.net.associate import AssociateRequest, InvalidPdu, decode_request

# PS3.8 table 9-10, the columns of the states above. Rows in capitals are PDUs received.
STATE_TABLE = """
    event                       Sta2    Sta3    Sta6    Sta8    Sta13
    A-ASSOCIATE-AC              AA-1    AA-8    AA-8    AA-8    AA-6
    A-ASSOCIATE-RJ              AA-1    AA-8    AA-8    AA-8    AA-6
    A-ASSOCIATE-RQ              AE-6    AA-8    AA-8    AA-8    AA-7
    accept                      -       AE-7    -       -       -
    reject                      -       AE-8    -       -       -
    P-DATA-TF                   AA-1    AA-8    DT-2    AA-8    AA-6
    data                        -       -       DT-1    AR-7    -
    A-RELEASE-RQ                AA-1    AA-8    AR-2    AA-8    AA-6
    A-RELEASE-RP                AA-1    AA-8    AA-8    AA-8    AA-6
    release                     -       -       -       AR-4    -
    abort                       AA-1    AA-1    AA-1    AA-1    -
    A-ABORT                     AA-2    AA-3    AA-3    AA-3    AA-2
    closed                      AA-5    AA-4    AA-4    AA-4    AR-5
    ARTIM expired               AA-2    -       -       -       AA-2
    invalid PDU                 AA-1    AA-8    AA-8    AA-8    AA-7
"""

ASSOCIATE_LIMIT = 1 << 18  # bytes of an A-ASSOCIATE-RQ: 128 contexts with all transfer syntaxes there are, twice
FIXED_LENGTHS = {0x03: 4, 0x05: 4, 0x06: 4, 0x07: 4}  # of the PDUs that have one
PDU_NAMES = {
    0x01: "A-ASSOCIATE-RQ",
    0x02: "A-ASSOCIATE-AC",
    0x03: "A-ASSOCIATE-RJ",
    0x04: "P-DATA-TF",
    0x05: "A-RELEASE-RQ",
    0x06: "A-RELEASE-RP",
    0x07: "A-ABORT",
}
HEADER = struct.Struct(">BxI")  # of a PDU: type, length of what follows
PDV_HEADER = struct.Struct(">IBB")  # of a presentation data value: length of what follows, context, control header
SINGLE_VALUE = struct.Struct(">BxIIBB")  # both, of a P-DATA-TF that has nothing but one presentation data value
COMMAND, LAST = 0b01, 0b10  # bits of the message control header (annex E.2); receivers ignore the others


class State(Enum):
    """The columns of the table; IDLE is Sta1."""

    IDLE = "Sta1"
    AWAITING_REQUEST = "Sta2"
    AWAITING_DECISION = "Sta3"
    ESTABLISHED = "Sta6"
    AWAITING_RELEASE = "Sta8"
    AWAITING_CLOSE = "Sta13"


class AbortSource(int, Enum):
    """PS3.8 table 9-26."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(int, Enum):
    """PS3.8 table 9-26; significant with the source SERVICE_PROVIDER."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


@frozen
class Requested:
    """A-ASSOCIATE indication: `accept` or `reject` comes next."""

    request: AssociateRequest


class Fragment:
    """P-DATA indication: a piece of a presentation data value, as it came. A view: it is gone with the buffer."""

    __slots__ = ("context_id", "data", "is_command", "is_last")

    def __init__(self, context_id: int, is_command: bool, is_last: bool, data: memoryview) -> None:
        self.context_id = context_id
        self.is_command = is_command
        self.is_last = is_last  # the message's command or data set ends with this piece
        self.data = data


@frozen
class ReleaseRequested:
    """A-RELEASE indication: `release` comes next, after answers that are still owed."""


@frozen
class Ended:
    """A-ABORT or A-P-ABORT indication, or the end of the connection: nothing more will come."""

    how: str  # "aborted" by the peer, "lost" connection, "violation" of the protocol by the peer
    why: str = ""


Indication: TypeAlias = "Requested | Fragment | ReleaseRequested | Ended"


class ProtocolViolation(InvalidPdu):
    """What the peer sent breaks PS3.8, or what was negotiated."""


class UpperLayer:
    """One association, from the open connection to its close."""

    def __init__(self, maximum_length: int) -> None:
        """`maximum_length`: longest P-DATA-TF to receive, as told to the peer (annex D.1); 0: no limit."""
        self.state = State.AWAITING_REQUEST
        self.artim_runs = True  # AE-5
        self.is_to_close = False
        self.contexts: frozenset[int] = frozenset()  # accepted presentation context IDs
        self._maximum_length = maximum_length
        self._outgoing = bytearray()
        self._found: list[Indication] = []
        self._head = bytearray()  # of a header that came in pieces
        self._body = bytearray()  # of a PDU that is no P-DATA-TF
        self._kind = 0
        self._pdu_left = 0  # bytes of the current PDU still to come
        self._pdv_left = 0
        self._context_id = 0
        self._control = 0
        self._take: Callable[[memoryview], int] = self._take_header
        self._request: AssociateRequest | None = None
        self._why = ""  # of a violation
        self._reason = AbortReason.NOT_SPECIFIED

    # --- what the connection tells ----------------------------------------------------------------------------------

    def receive(self, data: memoryview) -> Iterator[Indication]:
        """Take what arrived, one step after another, all of it. Views in the indications hold as long as `data`."""
        while data and not self.is_to_close:
            try:
                data = data[self._take_single_values(data) or self._take(data) :]
            except InvalidPdu as violation:
                self._violated(violation)
            if self._found:
                yield from self._taken()

    def closed(self) -> list[Indication]:
        """The connection is closed, by whomever."""
        self._happened("closed")
        return self._taken()

    def artim_expired(self) -> list[Indication]:
        """The peer took too long to request an association, or to close the connection."""
        self._happened("ARTIM expired")
        return self._taken()

    # --- what the local user wants ----------------------------------------------------------------------------------

    def accept(self, response: bytes, contexts: frozenset[int]) -> None:
        """`response`: the whole A-ASSOCIATE-AC; `contexts`: IDs of the presentation contexts that it accepts."""
        self.contexts = contexts
        self._happened("accept", response)

    def reject(self, result: int, source: int, reason: int) -> None:
        """PS3.8 table 9-21."""
        self._happened("reject", HEADER.pack(0x03, 4) + bytes((0, result, source, reason)))

    def send(self, p_data: bytes) -> None:
        """`p_data`: whole P-DATA-TF PDUs."""
        self._happened("data", p_data)

    def release(self) -> None:
        """Confirm the release that the peer asked for."""
        self._happened("release")

    def abort(self) -> None:
        """End the association at once."""
        self._happened("abort")

    def take_outgoing(self) -> bytes:
        """What is to be sent now."""
        outgoing = bytes(self._outgoing)
        self._outgoing.clear()
        return outgoing

    # --- the state table --------------------------------------------------------------------------------------------

    def _happened(self, event: str, outgoing: bytes = b"") -> None:
        if self.state is State.IDLE:
            return
        action = _TABLE[event, self.state]
        if action is None:
            if self.state is State.AWAITING_CLOSE:  # a wish that comes too late
                return
            raise RuntimeError(f"'{event}' cannot be asked for in {self.state.value}")
        action(self, outgoing)

    def _ae_6(self, _: bytes) -> None:
        """Stop ARTIM; A-ASSOCIATE indication, or A-ASSOCIATE-RJ when the service provider cannot take it."""
        self.artim_runs = False
        assert self._request is not None  # decoded just before
        self.state = State.AWAITING_DECISION
        refusal = self._request.provider_refusal
        if refusal is None:
            self._found.append(Requested(self._request))
        else:
            self.reject(*refusal)

    def _ae_7(self, response: bytes) -> None:
        """Send A-ASSOCIATE-AC."""
        self._outgoing += response
        self.state = State.ESTABLISHED

    def _ae_8(self, response: bytes) -> None:
        """Send A-ASSOCIATE-RJ and start ARTIM."""
        self._outgoing += response
        self._await_close()

    def _dt_1(self, p_data: bytes) -> None:
        """Send P-DATA-TF."""
        self._outgoing += p_data

    _ar_7 = _dt_1  # the same while the release waits

    def _dt_2(self, _: bytes) -> None:
        """P-DATA indication: its fragments follow as they come."""
        self._take = self._take_pdv_header

    def _ar_2(self, _: bytes) -> None:
        """A-RELEASE indication."""
        self.state = State.AWAITING_RELEASE
        self._found.append(ReleaseRequested())

    def _ar_4(self, _: bytes) -> None:
        """Send A-RELEASE-RP and start ARTIM."""
        self._outgoing += HEADER.pack(0x06, 4) + bytes(4)
        self._await_close()

    def _ar_5(self, _: bytes) -> None:
        """Stop ARTIM."""
        self._end()

    def _aa_1(self, _: bytes) -> None:
        """Send A-ABORT, service-user source, and start or restart ARTIM."""
        self._send_abort(AbortSource.SERVICE_USER, AbortReason.NOT_SPECIFIED)
        if self._why:
            self._found.append(Ended("violation", self._why))
        self._await_close()

    def _aa_2(self, _: bytes) -> None:
        """Stop ARTIM; close the transport connection."""
        self.is_to_close = True
        self._end()

    def _aa_3(self, _: bytes) -> None:
        """A-ABORT or A-P-ABORT indication; close the transport connection."""
        self._found.append(Ended("aborted"))
        self.is_to_close = True
        self._end()

    def _aa_4(self, _: bytes) -> None:
        """A-P-ABORT indication."""
        self._found.append(Ended("lost"))
        self._end()

    _aa_5 = _ar_5

    def _aa_6(self, _: bytes) -> None:
        """Ignore the PDU."""

    def _aa_7(self, _: bytes) -> None:
        """Send A-ABORT."""
        self._send_abort(AbortSource.SERVICE_PROVIDER, self._reason)

    def _aa_8(self, _: bytes) -> None:
        """Send A-ABORT, service-provider source; A-P-ABORT indication; start ARTIM."""
        self._send_abort(AbortSource.SERVICE_PROVIDER, self._reason)
        self._found.append(Ended("violation", self._why))
        self._await_close()

    def _await_close(self) -> None:
        self.state = State.AWAITING_CLOSE
        self.artim_runs = True

    def _end(self) -> None:
        self.state = State.IDLE
        self.artim_runs = False

    def _send_abort(self, source: AbortSource, reason: AbortReason) -> None:
        self._outgoing += HEADER.pack(0x07, 4) + bytes((0, 0, source, reason))

    # --- from bytes to PDUs -----------------------------------------------------------------------------------------

    def _take_single_values(self, data: memoryview) -> int:
        """Take all P-DATA-TF that `data` begins with and that have one presentation data value each, as most have.

        It is what `_take_header` and those after it do with them, DT-2 in Sta6, in a fraction of the time.
        """
        if self.state is not State.ESTABLISHED or self._take != self._take_header or self._head:
            return 0
        taken, size = 0, len(data)
        while size - taken >= SINGLE_VALUE.size:
            kind, pdu_length, length, context_id, control = SINGLE_VALUE.unpack_from(data, taken)
            if kind != 0x04 or length != pdu_length - 4 or length <= 2 or context_id not in self.contexts:
                break
            if self._maximum_length and pdu_length > self._maximum_length:
                break
            start = taken + SINGLE_VALUE.size
            end = start + length - 2
            taken = min(end, size)
            if taken > start:
                is_last = end == taken and bool(control & LAST)
                self._found.append(Fragment(context_id, bool(control & COMMAND), is_last, data[start:taken]))
            if end > taken:  # the rest is still to come
                self._context_id, self._control = context_id, control
                self._pdu_left, self._pdv_left = 0, end - taken
                self._take = self._take_pdv
        return taken

    def _take_header(self, data: memoryview) -> int:
        header = self._whole(data, HEADER.size)
        if header is None:
            return len(data)
        used, (self._kind, self._pdu_left) = header[0], HEADER.unpack(header[1])
        self._check_header()
        if self._kind == 0x04:
            self._take = self._skip_body
            self._received_pdu("P-DATA-TF")
            return self._and_on(data, used)
        self._body.clear()
        self._take = self._take_body
        if not self._pdu_left:
            self._take_body(data[:0])
        return used

    def _check_header(self) -> None:
        """Before a byte of it is kept."""
        kind, length = self._kind, self._pdu_left
        if kind not in PDU_NAMES:
            raise ProtocolViolation(f"there is no PDU type 0x{kind:02X}", AbortReason.UNRECOGNIZED_PDU)
        name = PDU_NAMES[kind]
        if length != FIXED_LENGTHS.get(kind, length):
            raise _invalid(f"{name} of {length} bytes instead of {FIXED_LENGTHS[kind]}")
        if kind == 0x04 and self._maximum_length and length > self._maximum_length:
            raise _invalid(f"P-DATA-TF of {length} bytes, above the negotiated {self._maximum_length}")
        if kind in (0x01, 0x02) and length > ASSOCIATE_LIMIT:
            raise _invalid(f"{name} of {length} bytes, above {ASSOCIATE_LIMIT}")
        if kind == 0x04 and length < PDV_HEADER.size:
            raise _invalid(f"P-DATA-TF of {length} bytes has no presentation data value")

    def _take_body(self, data: memoryview) -> int:
        piece = data[: self._pdu_left]
        self._body += piece
        self._pdu_left -= len(piece)
        if not self._pdu_left:
            self._take = self._take_header
            if self._kind == 0x01 and self.state is State.AWAITING_REQUEST:
                self._request = decode_request(bytes(self._body))
            self._received_pdu(PDU_NAMES[self._kind])
        return len(piece)

    def _skip_body(self, data: memoryview) -> int:
        """A P-DATA-TF that AA-6 ignores."""
        used = min(self._pdu_left, len(data))
        self._pdu_left -= used
        if not self._pdu_left:
            self._take = self._take_header
        return used

    def _take_pdv_header(self, data: memoryview) -> int:
        header = self._whole(data, PDV_HEADER.size)
        if header is None:
            return len(data)
        used, (length, self._context_id, self._control) = header[0], PDV_HEADER.unpack(header[1])
        self._pdu_left -= PDV_HEADER.size
        self._pdv_left = length - 2  # context ID and control header count
        if self._pdv_left < 0 or self._pdv_left > self._pdu_left:
            raise _invalid(f"presentation data value of {length} bytes does not fit its P-DATA-TF")
        if self._context_id not in self.contexts:
            raise _invalid(f"presentation context {self._context_id} was not accepted")
        self._pdu_left -= self._pdv_left
        if 0 < self._pdu_left < PDV_HEADER.size:
            raise _invalid(f"{self._pdu_left} bytes behind the last presentation data value of a P-DATA-TF")
        if not self._pdv_left:
            self._give(data[:0])
            return used
        self._take = self._take_pdv
        return self._and_on(data, used)

    def _and_on(self, data: memoryview, used: int) -> int:
        """What follows a header is most often there with it."""
        return used + self._take(data[used:]) if len(data) > used else used

    def _take_pdv(self, data: memoryview) -> int:
        piece = data[: self._pdv_left]
        self._pdv_left -= len(piece)
        self._give(piece)
        return len(piece)

    def _give(self, piece: memoryview) -> None:
        is_last = self._pdv_left == 0 and bool(self._control & LAST)
        self._found.append(Fragment(self._context_id, bool(self._control & COMMAND), is_last, piece))
        if not self._pdv_left:
            self._take = self._take_pdv_header if self._pdu_left else self._take_header

    def _whole(self, data: memoryview, size: int) -> tuple[int, memoryview | bytes] | None:
        """How many bytes of `data` complete a header, and the header; None: more has to come."""
        if not self._head and len(data) >= size:
            return size, data[:size]
        missing = size - len(self._head)
        self._head += data[:missing]
        if len(self._head) < size:
            return None
        header = bytes(self._head)
        self._head.clear()
        return missing, header

    def _received_pdu(self, name: str) -> None:
        if _TABLE[name, self.state] in (UpperLayer._aa_8, UpperLayer._aa_1):
            self._why = f"{name} in {self.state.value}"
            self._reason = AbortReason.UNEXPECTED_PDU
        self._happened(name)

    def _violated(self, violation: InvalidPdu) -> None:
        self._why, self._reason = str(violation), AbortReason(violation.abort_reason)
        self._happened("invalid PDU")
        self._take = self._ignore

    def _ignore(self, data: memoryview) -> int:
        """After a violation nothing more can be made out; until the connection closes it is thrown away."""
        return len(data)

    def _taken(self) -> list[Indication]:
        found, self._found = self._found, []
        return found


def _invalid(why: str) -> ProtocolViolation:
    return ProtocolViolation(why, AbortReason.INVALID_PDU_PARAMETER_VALUE)


Action: TypeAlias = "Callable[[UpperLayer, bytes], None]"


def _read_table(text: str) -> dict[tuple[str, State], Action | None]:
    lines = [line.rsplit(maxsplit=5) for line in text.strip().splitlines()]
    states = [State(name) for name in lines[0][1:]]
    return {
        (event.strip(), state): getattr(UpperLayer, "_" + cell.lower().replace("-", "_")) if cell != "-" else None
        for event, *cells in lines[1:]
        for state, cell in zip(states, cells, strict=True)
    }


_TABLE = _read_table(STATE_TABLE)
assert _TABLE["P-DATA-TF", State.ESTABLISHED] is UpperLayer._dt_2  # what `_take_single_values` goes without
