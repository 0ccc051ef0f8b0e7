"""The acceptor of storage associations: an `UpperLayer` with the DIMSE services C-STORE and C-ECHO on top (PS3.7).

Sans-IO like the upper layer: `receive()` returns events, `take_outgoing()` the bytes to send. The pieces of a data set
are returned as they arrive and never stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TypeAlias

from attrs import frozen

from dicom_adapter.net.associate import AssociateRequest, ContextResult, encode_accept
from dicom_adapter.net.dimse import (
    RESPONSE,
    Command,
    CommandField,
    DimseStatus,
    decode_command,
    encode_response,
)
from dicom_adapter.net.indications import (
    AssociateIndication,
    AssociationEnd,
    AssociationState,
    Fragment,
    ProviderRejection,
    ReleaseIndication,
)
from dicom_adapter.net.negotiation import ACCEPTANCE
from dicom_adapter.net.pdu import COMMAND, HEADER, LAST, PDV_HEADER, InvalidPdu
from dicom_adapter.net.upper_layer import UpperLayer

COMMAND_SET_LIMIT_BYTES = 1 << 14  # longest command set that is accepted; that of a C-STORE request has about 300 bytes


@frozen
class StoreRequested:
    """C-STORE indication. Its data set follows; call `answer` when the data set is complete, or earlier."""

    command: Command
    context: ContextResult


@frozen
class StoreCompleted:
    """The data set of a C-STORE is complete."""

    command: Command


@frozen
class StoreAborted:
    """The association ended, or is being released, before the data set of a C-STORE was complete."""

    command: Command


class ExpectedFragment(Enum):
    """The kind of fragment that must arrive next."""

    COMMAND = "a command set"
    DATA_SET = "the data set of a C-STORE"
    IGNORED_DATA_SET = "the data set of another command"


# A memoryview is a piece of the data set of the last StoreRequested.
AcceptorEvent: TypeAlias = (
    "AssociateIndication | ProviderRejection | StoreRequested | memoryview | StoreCompleted | StoreAborted"
    " | ReleaseIndication | AssociationEnd"
)


class Acceptor:
    """The acceptor's side of one association. Not thread-safe."""

    def __init__(self, maximum_length: int) -> None:
        """`maximum_length`: longest P-DATA-TF to receive, in bytes; 0: no limit."""
        self.layer = UpperLayer(maximum_length)
        self.take_outgoing = self.layer.take_outgoing  # returns the bytes to send now
        self.request: AssociateRequest | None = None
        self._maximum_length = maximum_length
        self._contexts: dict[int, ContextResult] = {}
        self._expected = ExpectedFragment.COMMAND
        self._context_id = 0  # presentation context of the current message
        self._command_set = bytearray()
        self._command: Command | None = None
        self.operation: object | None = None  # a new object for each message that is arriving; None between messages
        self._unanswered: dict[int, tuple[Command, int]] = {}  # C-STOREs with their context IDs, by id() of the command
        self._is_releasing = False

    # --- events of the connection -------------------------------------------------------------------------------------

    def receive(self, data: memoryview) -> list[AcceptorEvent]:
        """Process received bytes. Memoryviews among the events are valid as long as `data`."""
        return self._interpret(self.layer.receive(data))

    def input_ended(self) -> list[AcceptorEvent]:
        """Process the end of the input: the peer sends nothing more, but may still receive."""
        return self._abort_store()

    def closed(self) -> list[AcceptorEvent]:
        """Process the close of the connection."""
        return self._interpret(self.layer.closed())

    def artim_expired(self) -> list[AcceptorEvent]:
        """Process the expiration of ARTIM."""
        return self._interpret(self.layer.artim_expired())

    def _interpret(self, indications: Iterable[object]) -> list[AcceptorEvent]:
        events: list[AcceptorEvent] = []
        for indication in indications:
            if isinstance(indication, Fragment):
                self._receive_fragment(indication, events)
            elif isinstance(indication, (AssociateIndication, ProviderRejection)):
                self.request = indication.request
                events.append(indication)
            elif isinstance(indication, ReleaseIndication):
                events += [*self._abort_store(), indication]
                self._is_releasing = True
                self._release_if_all_answered()
            elif isinstance(indication, AssociationEnd):
                self._unanswered.clear()
                events += [*self._abort_store(), indication]
        return events

    def _receive_fragment(self, fragment: Fragment, events: list[AcceptorEvent]) -> None:
        if self.layer.state is not AssociationState.ESTABLISHED:  # the rest of a PDU after a violation
            return
        try:
            if fragment.is_command:
                self._receive_command_fragment(fragment, events)
            else:
                self._receive_data_fragment(fragment, events)
        except InvalidPdu as violation:
            events += self._abort_store()
            self.abort()
            events.append(AssociationEnd("violation", str(violation)))

    def _receive_command_fragment(self, fragment: Fragment, events: list[AcceptorEvent]) -> None:
        if self._expected is not ExpectedFragment.COMMAND:
            raise InvalidPdu(f"a command set arrived before the end of {self._expected.value}")
        if self._command_set and fragment.context_id != self._context_id:
            raise InvalidPdu("a command set is split between two presentation contexts")
        if len(self._command_set) + len(fragment.data) > COMMAND_SET_LIMIT_BYTES:
            raise InvalidPdu(f"a command set has more than {COMMAND_SET_LIMIT_BYTES} bytes")
        if self.operation is None:
            self.operation = object()
        self._context_id = fragment.context_id
        self._command_set += fragment.data
        if fragment.is_last:
            command = decode_command(bytes(self._command_set))
            self._command_set.clear()
            self._receive_command(command, events)

    def _receive_command(self, command: Command, events: list[AcceptorEvent]) -> None:
        if command.field & RESPONSE:
            raise InvalidPdu(f"response 0x{command.field:04X} without a request")
        self._command = command
        if command.field == CommandField.C_STORE_RQ and command.has_data_set:
            self._unanswered[id(command)] = command, self._context_id
            self._expected = ExpectedFragment.DATA_SET
            events.append(StoreRequested(command, self._contexts[self._context_id]))
        elif command.has_data_set:
            self._expected = ExpectedFragment.IGNORED_DATA_SET
        else:
            self._respond(command)

    def _respond(self, command: Command) -> None:
        self._command = self.operation = None
        if command.field == CommandField.C_ECHO_RQ:
            self._send(command, self._context_id, DimseStatus.SUCCESS)
        elif command.field != CommandField.C_CANCEL_RQ:  # none of the supported operations can be cancelled
            self._send(command, self._context_id, DimseStatus.UNRECOGNIZED_OPERATION)

    def _receive_data_fragment(self, fragment: Fragment, events: list[AcceptorEvent]) -> None:
        if self._expected is ExpectedFragment.COMMAND or self._command is None:
            raise InvalidPdu("a data set arrived without a command set")
        if fragment.context_id != self._context_id:
            raise InvalidPdu("a data set arrived in another presentation context than its command set")
        is_stored = self._expected is ExpectedFragment.DATA_SET
        if is_stored and fragment.data:
            events.append(fragment.data)
        if not fragment.is_last:
            return
        command, self._command, self._expected = self._command, None, ExpectedFragment.COMMAND
        self.operation = None
        if is_stored:
            events.append(StoreCompleted(command))
        else:
            self._respond(command)

    def _abort_store(self) -> list[AcceptorEvent]:
        """Discard a C-STORE whose data set is incomplete."""
        command, self._command = self._command, None
        if command is None or self._expected is not ExpectedFragment.DATA_SET:
            return []
        self._unanswered.pop(id(command), None)
        self._expected, self.operation = ExpectedFragment.COMMAND, None
        return [StoreAborted(command)]

    # --- requests of the caller ---------------------------------------------------------------------------------------

    def accept(self, contexts: Iterable[ContextResult], implementation: tuple[str, str]) -> None:
        """Accept the association.

        `contexts`: the result for each proposed presentation context; `implementation`: class UID and version name.
        """
        assert self.request is not None  # reported by an AssociateIndication
        results = list(contexts)
        self._contexts = {context.context_id: context for context in results if context.result == ACCEPTANCE}
        response = encode_accept(self.request, results, self._maximum_length, implementation)
        self.layer.accept(response, frozenset(self._contexts))

    def reject(self, result: int, source: int, reason: int) -> None:
        """Reject the association (PS3.8 table 9-21)."""
        self.layer.reject(result, source, reason)

    def answer(self, command: Command, status: int, comment: str = "") -> None:
        """Answer a C-STORE. Does nothing if the association has ended."""
        unanswered = self._unanswered.pop(id(command), None)
        if unanswered is not None:
            self._send(command, unanswered[1], status, comment)
            self._release_if_all_answered()

    def abort(self) -> None:
        """Abort the association."""
        self._unanswered.clear()
        self.layer.abort()

    @property
    def unanswered(self) -> int:
        """Number of C-STOREs without an answer."""
        return len(self._unanswered)

    # --- state of the connection --------------------------------------------------------------------------------------

    @property
    def artim_runs(self) -> bool:
        """True while the peer must request an association, or close the connection, before ARTIM expires."""
        return self.layer.artim_runs

    @property
    def has_ended(self) -> bool:
        """True if the association was released, aborted, rejected or lost, or if it can no longer be requested."""
        return self.layer.has_ended

    @property
    def is_to_close(self) -> bool:
        """True if the connection must be closed after the outgoing bytes were written."""
        return self.layer.is_to_close

    def _release_if_all_answered(self) -> None:
        if self._is_releasing and not self._unanswered and self.layer.state is AssociationState.AWAITING_RELEASE:
            self.layer.release()

    def _send(self, command: Command, context_id: int, status: int, comment: str = "") -> None:
        assert self.request is not None  # the association was accepted
        response = encode_response(command, status, comment)
        # A response has a few hundred bytes. It is split if the requestor's longest PDU is shorter (PS3.8 annex D.1).
        limit = self.request.maximum_length - PDV_HEADER.size if self.request.maximum_length else len(response)
        step = max(1, limit)
        for start in range(0, len(response), step):
            piece = response[start : start + step]
            control = COMMAND | (LAST if start + step >= len(response) else 0)
            pdv = PDV_HEADER.pack(len(piece) + 2, context_id, control) + piece
            self.layer.send(HEADER.pack(0x04, len(pdv)) + pdv)
