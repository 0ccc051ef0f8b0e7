"""The DICOM upper layer for TCP/IP, the acceptor's side (PS3.8 section 9.2), as a sans-IO state machine.

An `UpperLayer` uses no socket, thread or clock. The caller feeds received bytes to `receive()`, writes the result of
`take_outgoing()` to the connection, closes the connection when `is_to_close` is true, and calls `artim_expired()` when
`artim_runs` has been true for too long.

PS3.8 defines the upper layer as a table of events and states. Each cell names an action, or is empty if the event is
impossible in the state. The rules of this module follow from this table:

1. Everything that depends on the state is in `state_table`, the table of the standard: action AA-8 is the method
   `_aa_8`. Every cell can be compared with PS3.8, and a test executes it.
2. An event is a received PDU, a request of the service-user (accept, reject, data, release, abort), a closed
   connection, or the timer ARTIM. `_apply` looks up its cell and calls the action; nothing else changes the state.
3. An action sends PDUs (it appends to the outgoing bytes), reports indications, and sets the next state.
4. `_parse` is the parser of the next bytes, one of the `_parse_…` methods. A PDU is checked before its body is
   stored. The values of a P-DATA-TF are never stored: their pieces are reported as views of the received buffer.

    state   PS3.8 tables 9-1 to 9-5
    Sta1    idle: the connection is closed
    Sta2    transport connection open, awaiting A-ASSOCIATE-RQ
    Sta3    awaiting the local A-ASSOCIATE response
    Sta6    association established, ready for data transfer
    Sta8    awaiting the local A-RELEASE response
    Sta13   awaiting the transport connection's close

PS3.8 has more states: those of the requestor, and those of a side that releases an association itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dicom_adapter.net.associate import AssociateRequest, decode_request
from dicom_adapter.net.indications import (
    AssociateIndication,
    AssociationEnd,
    AssociationState,
    Fragment,
    Indication,
    ProviderRejection,
    ReleaseIndication,
)
from dicom_adapter.net.pdu import (
    COMMAND,
    HEADER,
    LAST,
    PDU_NAMES,
    PDV_HEADER,
    SINGLE_VALUE,
    AbortReason,
    AbortSource,
    InvalidPdu,
    check_header,
)
from dicom_adapter.net.state_table import ACTIONS


class UpperLayer:
    """One association, from the open connection to its close. Not thread-safe."""

    def __init__(self, maximum_length: int) -> None:
        """`maximum_length`: longest P-DATA-TF to receive, as sent to the peer (annex D.1), in bytes; 0: no limit."""
        self.state = AssociationState.AWAITING_REQUEST
        self.artim_runs = True  # AE-5
        self.has_ended = False  # the association has ended; the connection may still be open
        self.is_to_close = False
        # Number of PDUs that have begun to arrive, for the time limit of incomplete PDUs: without those that
        # `_parse_single_values` received as a whole.
        self.pdus_begun = 0
        self.contexts: frozenset[int] = frozenset()  # IDs of the accepted presentation contexts
        self._maximum_length = maximum_length
        self._outgoing = bytearray()
        self._indications: list[Indication] = []
        self._partial_header = bytearray()  # header of a PDU or of a presentation data value that arrived in pieces
        self._body = bytearray()  # body of a PDU other than P-DATA-TF
        self._pdu_type = 0
        self._pdu_left = 0  # bytes of the current PDU that have not arrived
        self._pdv_left = 0  # the same for the current presentation data value
        self._context_id = 0
        self._control = 0
        self._parse: Callable[[memoryview], int] = self._parse_header
        self._request: AssociateRequest | None = None
        self._violation = ""  # reason of a violation of the protocol; "": none
        self._abort_reason = AbortReason.NOT_SPECIFIED

    # --- events of the connection -------------------------------------------------------------------------------------

    def receive(self, data: memoryview) -> Iterator[Indication]:
        """Process received bytes, and yield indications. The views in them are valid as long as `data`."""
        while data and not self.is_to_close:
            try:
                data = data[self._parse_single_values(data) or self._parse(data) :]
            except InvalidPdu as violation:
                self._handle_violation(violation)
            if self._indications:
                yield from self._take_indications()

    def closed(self) -> list[Indication]:
        """Process the close of the connection by either side, and return indications."""
        self._apply("closed")
        return self._take_indications()

    def artim_expired(self) -> list[Indication]:
        """Process the expiration of ARTIM: the peer did not request an association or close the connection in time."""
        self._apply("ARTIM expired")
        return self._take_indications()

    @property
    def is_in_pdu(self) -> bool:
        """True if a PDU has begun to arrive and is not complete."""
        return self._parse != self._parse_header or bool(self._partial_header)

    # --- requests of the service-user ---------------------------------------------------------------------------------

    def accept(self, response: bytes, contexts: frozenset[int]) -> None:
        """Accept the association.

        `response`: a complete A-ASSOCIATE-AC; `contexts`: IDs of the accepted presentation contexts.
        """
        self.contexts = contexts
        self._apply("accept", response)

    def reject(self, result: int, source: int, reason: int) -> None:
        """Reject the association (PS3.8 table 9-21)."""
        self._apply("reject", HEADER.pack(0x03, 4) + bytes((0, result, source, reason)))

    def send(self, p_data: bytes) -> None:
        """Send `p_data`, complete P-DATA-TF PDUs."""
        self._apply("data", p_data)

    def release(self) -> None:
        """Confirm the release that the peer requested."""
        self._apply("release")

    def abort(self) -> None:
        """Abort the association."""
        self._apply("abort")

    def take_outgoing(self) -> bytes:
        """Return the bytes to send now."""
        if not self._outgoing:
            return b""
        outgoing = bytes(self._outgoing)
        self._outgoing.clear()
        return outgoing

    # --- the state table ----------------------------------------------------------------------------------------------

    def _apply(self, event: str, outgoing: bytes = b"") -> None:
        if self.state is AssociationState.IDLE:
            return
        action = _TABLE[event, self.state]
        if action is None:
            if self.state is AssociationState.AWAITING_CLOSE:  # a late request of the service-user: no effect
                return
            raise RuntimeError(f"'{event}' is impossible in state {self.state.value}")
        action(self, outgoing)

    def _ae_6(self, _: bytes) -> None:
        """Stop ARTIM; A-ASSOCIATE indication, or A-ASSOCIATE-RJ if the service-provider cannot accept the request."""
        self.artim_runs = False
        assert self._request is not None  # decoded just before
        self.state = AssociationState.AWAITING_DECISION
        rejection = self._request.provider_rejection
        if rejection is None:
            self._indications.append(AssociateIndication(self._request))
        else:
            self._indications.append(ProviderRejection(self._request))
            self.reject(*rejection)  # applies AE-8

    def _ae_7(self, response: bytes) -> None:
        """Send A-ASSOCIATE-AC."""
        self._outgoing += response
        self.state = AssociationState.ESTABLISHED

    def _ae_8(self, response: bytes) -> None:
        """Send A-ASSOCIATE-RJ and start ARTIM."""
        self._outgoing += response
        self._await_close()

    def _dt_1(self, p_data: bytes) -> None:
        """Send P-DATA-TF."""
        self._outgoing += p_data

    _ar_7 = _dt_1  # the same action, in the state before the release is confirmed

    def _dt_2(self, _: bytes) -> None:
        """P-DATA indication. The fragments of the PDU are reported when they arrive."""
        self._parse = self._parse_pdv_header

    def _ar_2(self, _: bytes) -> None:
        """A-RELEASE indication."""
        self.state = AssociationState.AWAITING_RELEASE
        self._indications.append(ReleaseIndication())

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
        if self._violation:
            self._indications.append(AssociationEnd("violation", self._violation))
        self._await_close()

    def _aa_2(self, _: bytes) -> None:
        """Stop ARTIM; close the transport connection."""
        self.is_to_close = True
        self._end()

    def _aa_3(self, _: bytes) -> None:
        """A-ABORT or A-P-ABORT indication; close the transport connection."""
        self._indications.append(AssociationEnd("aborted"))
        self.is_to_close = True
        self._end()

    def _aa_4(self, _: bytes) -> None:
        """A-P-ABORT indication."""
        self._indications.append(AssociationEnd("lost"))
        self._end()

    _aa_5 = _ar_5

    def _aa_6(self, _: bytes) -> None:
        """Ignore the PDU."""

    def _aa_7(self, _: bytes) -> None:
        """Send A-ABORT."""
        self._send_abort(AbortSource.SERVICE_PROVIDER, self._abort_reason)

    def _aa_8(self, _: bytes) -> None:
        """Send A-ABORT, service-provider source; A-P-ABORT indication; start ARTIM."""
        self._send_abort(AbortSource.SERVICE_PROVIDER, self._abort_reason)
        self._indications.append(AssociationEnd("violation", self._violation))
        self._await_close()

    def _await_close(self) -> None:
        self.state = AssociationState.AWAITING_CLOSE
        self.artim_runs = self.has_ended = True

    def _end(self) -> None:
        self.state = AssociationState.IDLE
        self.has_ended = True
        self.artim_runs = False

    def _send_abort(self, source: AbortSource, reason: AbortReason) -> None:
        self._outgoing += HEADER.pack(0x07, 4) + bytes((0, 0, source, reason))

    # --- from bytes to PDUs -------------------------------------------------------------------------------------------

    def _parse_single_values(self, data: memoryview) -> int:
        """Process P-DATA-TF PDUs at the beginning of `data` that have one presentation data value each.

        Most PDUs are of this kind. The result is the same as with `_parse_header` and the parsers after it (DT-2 in
        Sta6), but this method is several times faster.
        """
        if self.state is not AssociationState.ESTABLISHED or self._parse != self._parse_header or self._partial_header:
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
                self._indications.append(Fragment(context_id, bool(control & COMMAND), is_last, data[start:taken]))
            if end > taken:  # the rest of the value has not arrived
                self.pdus_begun += 1
                self._context_id, self._control = context_id, control
                self._pdu_left, self._pdv_left = 0, end - taken
                self._parse = self._parse_pdv
        return taken

    def _parse_header(self, data: memoryview) -> int:
        if not self._partial_header:
            self.pdus_begun += 1
        completed = self._complete_header(data, HEADER.size)
        if completed is None:
            return len(data)
        used, header = completed
        self._pdu_type, self._pdu_left = HEADER.unpack(header)
        check_header(self._pdu_type, self._pdu_left, self._maximum_length)
        if self._pdu_type == 0x04:
            self._parse = self._parse_ignored  # unless the action is DT-2, which replaces it
            self._received_pdu("P-DATA-TF")
            return self._parse_rest(data, used)
        self._body.clear()
        self._parse = self._parse_body
        if not self._pdu_left:
            self._parse_body(data[:0])
        return used

    def _parse_body(self, data: memoryview) -> int:
        piece = data[: self._pdu_left]
        self._body += piece
        self._pdu_left -= len(piece)
        if not self._pdu_left:
            self._parse = self._parse_header
            if self._pdu_type == 0x01 and self.state is AssociationState.AWAITING_REQUEST:
                self._request = decode_request(bytes(self._body))
            self._received_pdu(PDU_NAMES[self._pdu_type])
        return len(piece)

    def _parse_ignored(self, data: memoryview) -> int:
        """Discard the body of a P-DATA-TF that arrives in another state than Sta6."""
        used = min(self._pdu_left, len(data))
        self._pdu_left -= used
        if not self._pdu_left:
            self._parse = self._parse_header
        return used

    def _parse_pdv_header(self, data: memoryview) -> int:
        completed = self._complete_header(data, PDV_HEADER.size)
        if completed is None:
            return len(data)
        used, header = completed
        length, self._context_id, self._control = PDV_HEADER.unpack(header)
        self._pdu_left -= PDV_HEADER.size
        self._pdv_left = length - 2  # the length includes context ID and control header
        if self._pdv_left < 0 or self._pdv_left > self._pdu_left:
            raise InvalidPdu(f"presentation data value of {length} bytes does not fit its P-DATA-TF")
        if self._context_id not in self.contexts:
            raise InvalidPdu(f"presentation context {self._context_id} was not accepted")
        self._pdu_left -= self._pdv_left
        if 0 < self._pdu_left < PDV_HEADER.size:
            raise InvalidPdu(f"{self._pdu_left} bytes after the last presentation data value of a P-DATA-TF")
        if not self._pdv_left:
            self._report_piece(data[:0])
            return used
        self._parse = self._parse_pdv
        return self._parse_rest(data, used)

    def _parse_rest(self, data: memoryview, used: int) -> int:
        """Parse the bytes that arrived together with a header."""
        return used + self._parse(data[used:]) if len(data) > used else used

    def _parse_pdv(self, data: memoryview) -> int:
        piece = data[: self._pdv_left]
        self._pdv_left -= len(piece)
        self._report_piece(piece)
        return len(piece)

    def _report_piece(self, piece: memoryview) -> None:
        is_last = self._pdv_left == 0 and bool(self._control & LAST)
        self._indications.append(Fragment(self._context_id, bool(self._control & COMMAND), is_last, piece))
        if not self._pdv_left:
            self._parse = self._parse_pdv_header if self._pdu_left else self._parse_header

    def _complete_header(self, data: memoryview, size: int) -> tuple[int, memoryview | bytes] | None:
        """Return the number of bytes of `data` that complete a header, and the header; None if it is not complete."""
        if not self._partial_header and len(data) >= size:
            return size, data[:size]
        missing = size - len(self._partial_header)
        self._partial_header += data[:missing]
        if len(self._partial_header) < size:
            return None
        header = bytes(self._partial_header)
        self._partial_header.clear()
        return missing, header

    def _received_pdu(self, name: str) -> None:
        if _TABLE[name, self.state] in (UpperLayer._aa_8, UpperLayer._aa_1):
            self._violation = f"{name} in {self.state.value}"
            self._abort_reason = AbortReason.UNEXPECTED_PDU
        self._apply(name)

    def _handle_violation(self, violation: InvalidPdu) -> None:
        self._violation, self._abort_reason = str(violation), violation.abort_reason
        self._apply("invalid PDU")
        self._parse = self._parse_nothing

    def _parse_nothing(self, data: memoryview) -> int:
        """Discard everything until the connection closes: after a violation, PDU boundaries are unknown."""
        return len(data)

    def _take_indications(self) -> list[Indication]:
        found, self._indications = self._indications, []
        return found


_TABLE: dict[tuple[str, AssociationState], Callable[[UpperLayer, bytes], None] | None] = {
    cell: getattr(UpperLayer, "_" + action.lower().replace("-", "_")) if action else None
    for cell, action in ACTIONS.items()
}
# `_parse_single_values` does not look up this cell.
assert _TABLE["P-DATA-TF", AssociationState.ESTABLISHED] is UpperLayer._dt_2
