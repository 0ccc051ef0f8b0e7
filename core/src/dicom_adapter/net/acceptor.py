"""The acceptor of storage associations: an `UpperLayer` with the DIMSE services C-STORE and C-ECHO on top (PS3.7).

No input or output of its own either: indications come from what `receive` is given, bytes to send from `take_outgoing`.
A data set is passed on in the pieces in which it arrives and never held.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TypeAlias

from attrs import frozen

from dicom_adapter.net.associate import AnsweredContext, AssociateRequest, InvalidPdu, encode_accept
from dicom_adapter.net.dimse import (
    RESPONSE,
    Command,
    CommandField,
    DimseStatus,
    decode_command,
    encode_response,
)
from dicom_adapter.net.negotiation import ACCEPTANCE
from dicom_adapter.net.upper_layer import (
    COMMAND,
    HEADER,
    LAST,
    PDV_HEADER,
    Ended,
    Fragment,
    ReleaseRequested,
    Requested,
    State,
    UpperLayer,
)

COMMAND_SET_LIMIT = 1 << 14  # bytes; a C-STORE request has about 300


@frozen
class StoreBegun:
    """C-STORE indication, before its data set. `answer` comes when the data set has ended, or earlier."""

    command: Command
    context: AnsweredContext


@frozen
class StoreEnded:
    """The data set is complete."""

    command: Command


@frozen
class StoreBroken:
    """The data set will never be complete: the association ends, or is released, in the middle of it."""

    command: Command


class Expect(Enum):
    """What the next fragment has to be."""

    COMMAND = "a command set"
    DATA_SET = "the data set of a C-STORE"
    UNWANTED_DATA_SET = "the data set of something else"


Happening: TypeAlias = "Requested | StoreBegun | memoryview | StoreEnded | StoreBroken | ReleaseRequested | Ended"


class Acceptor:
    """One association."""

    def __init__(self, maximum_length: int) -> None:
        """`maximum_length`: longest P-DATA-TF to receive; 0: no limit."""
        self.layer = UpperLayer(maximum_length)
        self.request: AssociateRequest | None = None
        self._maximum_length = maximum_length
        self._contexts: dict[int, AnsweredContext] = {}
        self._expect = Expect.COMMAND
        self._context_id = 0  # of the message that has begun
        self._command_set = bytearray()
        self._command: Command | None = None
        self._owed: dict[int, tuple[Command, int]] = {}  # C-STOREs to be answered, with their contexts, by identity
        self._is_releasing = False

    # --- from the peer ----------------------------------------------------------------------------------------------

    def receive(self, data: memoryview) -> list[Happening]:
        """Take what arrived; memoryviews are pieces of the data set that has begun, and hold as long as `data`."""
        return self._interpret(self.layer.receive(data))

    def closed(self) -> list[Happening]:
        """The connection is closed."""
        return self._interpret(self.layer.closed())

    def artim_expired(self) -> list[Happening]:
        """ARTIM ran for too long."""
        return self._interpret(self.layer.artim_expired())

    def _interpret(self, indications: Iterable[object]) -> list[Happening]:
        found: list[Happening] = []
        for indication in indications:
            if isinstance(indication, Fragment):
                self._take(indication, found)
            elif isinstance(indication, Requested):
                self.request = indication.request
                found.append(indication)
            elif isinstance(indication, ReleaseRequested):
                found += [*self._broken(), indication]
                self._is_releasing = True
                self._release_when_nothing_is_owed()
            elif isinstance(indication, Ended):
                self._owed.clear()
                found += [*self._broken(), indication]
        return found

    def _take(self, fragment: Fragment, found: list[Happening]) -> None:
        if self.layer.state is not State.ESTABLISHED:  # the rest of a PDU whose beginning was a violation
            return
        try:
            if fragment.is_command:
                self._take_command_set(fragment, found)
            else:
                self._take_data_set(fragment, found)
        except InvalidPdu as violation:
            found += self._broken()
            self.abort()
            found.append(Ended("violation", str(violation)))

    def _take_command_set(self, fragment: Fragment, found: list[Happening]) -> None:
        if self._expect is not Expect.COMMAND:
            raise InvalidPdu(f"a command set came before the end of {self._expect.value}")
        if self._command_set and fragment.context_id != self._context_id:
            raise InvalidPdu("a command set comes in two presentation contexts")
        if len(self._command_set) + len(fragment.data) > COMMAND_SET_LIMIT:
            raise InvalidPdu(f"a command set has more than {COMMAND_SET_LIMIT} bytes")
        self._context_id = fragment.context_id
        self._command_set += fragment.data
        if fragment.is_last:
            command = decode_command(bytes(self._command_set))
            self._command_set.clear()
            self._commanded(command, found)

    def _commanded(self, command: Command, found: list[Happening]) -> None:
        if command.field & RESPONSE:
            raise InvalidPdu(f"response 0x{command.field:04X} to nothing that was asked")
        self._command = command
        if command.field == CommandField.C_STORE_RQ and command.has_data_set:
            self._owed[id(command)] = command, self._context_id
            self._expect = Expect.DATA_SET
            found.append(StoreBegun(command, self._contexts[self._context_id]))
        elif command.has_data_set:
            self._expect = Expect.UNWANTED_DATA_SET
        else:
            self._respond_at_once(command)

    def _respond_at_once(self, command: Command) -> None:
        self._command = None
        if command.field == CommandField.C_ECHO_RQ:
            self._send(command, self._context_id, DimseStatus.SUCCESS)
        elif command.field != CommandField.C_CANCEL_RQ:  # there is nothing that it could cancel
            self._send(command, self._context_id, DimseStatus.UNRECOGNIZED_OPERATION)

    def _take_data_set(self, fragment: Fragment, found: list[Happening]) -> None:
        if self._expect is Expect.COMMAND or self._command is None:
            raise InvalidPdu("a data set came without a command set")
        if fragment.context_id != self._context_id:
            raise InvalidPdu("a data set came in another presentation context than its command set")
        is_stored = self._expect is Expect.DATA_SET
        if is_stored and fragment.data:
            found.append(fragment.data)
        if not fragment.is_last:
            return
        command, self._command, self._expect = self._command, None, Expect.COMMAND
        if is_stored:
            found.append(StoreEnded(command))
        else:
            self._respond_at_once(command)

    def _broken(self) -> list[Happening]:
        """A C-STORE whose data set has not come to its end is none."""
        command, self._command = self._command, None
        if command is None or self._expect is not Expect.DATA_SET:
            return []
        self._owed.pop(id(command), None)
        self._expect = Expect.COMMAND
        return [StoreBroken(command)]

    # --- to the peer ------------------------------------------------------------------------------------------------

    def accept(self, contexts: Iterable[AnsweredContext], implementation: tuple[str, str]) -> None:
        """Accept the association with these answers; `implementation`: class UID and version name."""
        assert self.request is not None  # it was indicated
        answers = list(contexts)
        self._contexts = {context.context_id: context for context in answers if context.result == ACCEPTANCE}
        response = encode_accept(self.request, answers, self._maximum_length, implementation)
        self.layer.accept(response, frozenset(self._contexts))

    def reject(self, result: int, source: int, reason: int) -> None:
        """Reject the association (PS3.8 table 9-21)."""
        self.layer.reject(result, source, reason)

    def answer(self, command: Command, status: int, comment: str = "") -> None:
        """Answer a C-STORE. Nothing happens when the association has ended meanwhile."""
        owed = self._owed.pop(id(command), None)
        if owed is not None:
            self._send(command, owed[1], status, comment)
            self._release_when_nothing_is_owed()

    def abort(self) -> None:
        """End the association at once."""
        self._owed.clear()
        self.layer.abort()

    @property
    def owes(self) -> int:
        """How many C-STOREs are to be answered."""
        return len(self._owed)

    def _release_when_nothing_is_owed(self) -> None:
        if self._is_releasing and not self._owed and self.layer.state is State.AWAITING_RELEASE:
            self.layer.release()

    def _send(self, command: Command, context_id: int, status: int, comment: str = "") -> None:
        assert self.request is not None  # nothing comes before it
        response = encode_response(command, status, comment)
        # A response has a few hundred bytes. Who takes less in a PDU gets it in several (PS3.8 annex D.1).
        most = self.request.maximum_length - PDV_HEADER.size if self.request.maximum_length else len(response)
        step = max(1, most)
        for start in range(0, len(response), step):
            piece = response[start : start + step]
            control = COMMAND | (LAST if start + step >= len(response) else 0)
            pdv = PDV_HEADER.pack(len(piece) + 2, context_id, control) + piece
            self.layer.send(HEADER.pack(0x04, len(pdv)) + pdv)
