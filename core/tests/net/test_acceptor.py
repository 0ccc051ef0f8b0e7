"""The acceptor: reassembly of messages, their responses, and rejection of everything that is not a valid message."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)

from dicom_adapter.config.transfer_syntaxes import UNSUPPORTED_TRANSFER_SYNTAXES
from dicom_adapter.net.acceptor import Acceptor, StoreAborted, StoreCompleted, StoreRequested
from dicom_adapter.net.associate import ProposedContext, decode_request
from dicom_adapter.net.dimse import Command
from dicom_adapter.net.indications import AssociateIndication, AssociationEnd, ReleaseIndication
from dicom_adapter.net.negotiation import negotiate
from dicom_adapter.net.upper_layer import UpperLayer
from support.conversation import (
    ABORT,
    COMMAND,
    CT,
    EXPLICIT,
    IMPLICIT,
    LAST,
    RELEASE_RP,
    RELEASE_RQ,
    VERIFICATION,
    abort_of,
    associate,
    command_set,
    context,
    echo,
    element,
    p_data,
    pdu,
    pdus,
    pdv,
    store,
)

OURS = ("1.2.3.4", "TEST-1")  # implementation class UID and version name of the acceptor
DATA_SET = bytes(range(256)) * 40


class Talk:
    """An acceptor that accepts every association, records what is stored, and responds at once."""

    def __init__(self, maximum_length: int = 0, *, answering: bool = True) -> None:
        self.acceptor = Acceptor(maximum_length)
        self.sent = b""
        self.happened: list[object] = []  # events, without the pieces of data sets
        self.stored: dict[int, bytes] = {}  # by message ID
        self.aborted: list[int] = []  # message IDs of incomplete C-STOREs
        self._answering = answering
        self._open = b""  # the data set that is arriving

    def receive(self, *turns: bytes, sizes: Sequence[int] = ()) -> Talk:
        """Receive data of the peer in pieces of these sizes.

        After each item of `turns`, the peer waits for a response.
        """
        left = list(sizes)
        for turn in turns:
            view = memoryview(turn)
            while view:
                size = left.pop(0) if left else len(view)
                self._receive(view[:size])
                view = view[size:]
        return self

    def respond(self, command: Command, status: int, comment: str = "") -> None:
        self.acceptor.answer(command, status, comment)
        self.sent += self.acceptor.take_outgoing()

    def _receive(self, data: memoryview) -> None:
        buffer = bytearray(data)
        for event in self.acceptor.receive(memoryview(buffer)):
            self._record(event)
        buffer[:] = b"\xff" * len(buffer)  # a view that was kept would now show wrong bytes
        self.sent += self.acceptor.take_outgoing()

    def _record(self, event: object) -> None:
        if isinstance(event, memoryview):
            self._open += event
            return
        self.happened.append(event)
        if isinstance(event, AssociateIndication):
            self.acceptor.accept(negotiate(event.request.contexts), OURS)
        elif isinstance(event, StoreRequested):
            self._open = b""
        elif isinstance(event, StoreCompleted):
            self.stored[event.command.message_id] = self._open
            if self._answering:
                self.acceptor.answer(event.command, 0)
        elif isinstance(event, StoreAborted):
            self.aborted.append(event.command.message_id)

    @property
    def responses(self) -> list[tuple[int, int, int]]:
        """Return the command field, the message ID responded to and the status of each response."""
        sets = self.response_sets
        return [(command.CommandField, command.MessageIDBeingRespondedTo, command.Status) for command in sets]

    @property
    def response_sets(self) -> list[Dataset]:
        decoded, body = [], b""
        for kind, p_data_body in pdus(self.sent):
            if kind == 0x04:
                body += p_data_body[6:]
                if p_data_body[5] & LAST:
                    decoded.append(decode(BytesIO(body), is_implicit_vr=True, is_little_endian=True))
                    body = b""
        return decoded

    @property
    def ended(self) -> list[str]:
        """Return how the association ended; more than one value would be a bug."""
        return [event.how for event in self.happened if isinstance(event, AssociationEnd)]


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 2, 40, len(DATA_SET)])
def test_a_data_set_arrives_as_it_was_sent(pieces: int) -> None:
    talk = Talk().receive(associate(), store(DATA_SET, pieces) + RELEASE_RQ)
    assert {7: DATA_SET} == talk.stored
    assert [(0x8001, 7, 0)] == talk.responses
    assert talk.sent.endswith(RELEASE_RP)


CONVERSATION = store(DATA_SET, 3, 1) + echo(2) + store(b"", 1, 3) + store(b"abc", 2, 4) + RELEASE_RQ


@given(st.lists(st.integers(1, 4000), max_size=40))
@settings(max_examples=150, deadline=None)
def test_fragmentation_by_tcp_makes_no_difference(sizes: list[int]) -> None:
    """Verified to fail when a view of a split command set is kept, or the rest of a split header is lost."""
    talk = Talk().receive(associate(), CONVERSATION, sizes=sizes)
    assert {1: DATA_SET, 3: b"", 4: b"abc"} == talk.stored
    # A peer that negotiated asynchronous operations may receive responses in another order.
    assert [(0x8001, 1, 0), (0x8001, 3, 0), (0x8001, 4, 0), (0x8030, 2, 0)] == sorted(talk.responses)
    assert talk.sent.endswith(RELEASE_RP)


def test_a_conversation_can_arrive_byte_by_byte() -> None:
    assert {7: b"data set"} == Talk().receive(associate(), store(b"data set"), sizes=[1] * 1000).stored


def test_commands_are_answered_with_the_right_status() -> None:
    c_find = p_data(pdv(command_set(0x0020, message_id=5), COMMAND | LAST)) + p_data(pdv(b"identifier", LAST))
    n_get = p_data(pdv(command_set(0x0110, data_set=False, message_id=6), COMMAND | LAST))
    c_cancel = p_data(pdv(command_set(0x0FFF, data_set=False), COMMAND | LAST))
    talk = Talk().receive(associate(), c_find + n_get + c_cancel + echo(8))
    assert [(0x8020, 5, 0x0211), (0x8110, 6, 0x0211), (0x8030, 8, 0)] == talk.responses
    assert [] == talk.ended


def test_the_response_of_a_refusal_has_its_comment() -> None:
    talk = Talk(answering=False).receive(associate(), store(b"x"))
    [command] = [event.command for event in talk.happened if isinstance(event, StoreCompleted)]
    talk.respond(command, 0xA700, "there is no space left, " * 9)
    [response] = talk.response_sets
    assert (0xA700, "1.2.3.4", CT) == (response.Status, response.AffectedSOPInstanceUID, response.AffectedSOPClassUID)
    assert 64 == len(response.ErrorComment)


@pytest.mark.parametrize("length", [8, 100, 128, 0])
def test_responses_respect_the_maximum_length_of_the_peer(length: int) -> None:
    talk = Talk().receive(associate(maximum_length=length), store(b"x"))
    assert [(0x8001, 7, 0)] == talk.responses
    assert all(len(body) <= length or not length for kind, body in pdus(talk.sent) if kind == 0x04)


def test_a_release_waits_for_outstanding_responses() -> None:
    talk = Talk(answering=False).receive(associate(), store(b"x") + RELEASE_RQ)
    assert not talk.sent.endswith(RELEASE_RP)
    [command] = [event.command for event in talk.happened if isinstance(event, StoreCompleted)]
    assert 1 == talk.acceptor.unanswered
    talk.respond(command, 0)
    assert talk.sent.endswith(RELEASE_RP)
    assert [(0x8001, 7, 0)] == talk.responses


def test_a_response_after_the_end_of_the_association_is_not_sent() -> None:
    talk = Talk(answering=False).receive(associate(), store(b"x") + ABORT)
    [command] = [event.command for event in talk.happened if isinstance(event, StoreCompleted)]
    sent = talk.sent
    talk.respond(command, 0)
    assert sent == talk.sent


CUT = p_data(pdv(command_set(), COMMAND | LAST)) + p_data(pdv(b"half", 0))


@pytest.mark.parametrize(
    ("then", "how"),
    [(ABORT, ["aborted"]), (RELEASE_RQ, []), (pdu(0x09, b""), ["violation"])],
    ids=["abort", "release", "violation"],
)
def test_an_incomplete_data_set_is_discarded(then: bytes, how: list[str]) -> None:
    talk = Talk().receive(associate(), CUT + then)
    assert ({}, [7], how, []) == (talk.stored, talk.aborted, talk.ended, talk.responses)


def test_an_incomplete_data_set_is_discarded_when_the_connection_is_lost() -> None:
    talk = Talk().receive(associate(), CUT)
    happened = talk.acceptor.closed()
    assert [StoreAborted, AssociationEnd] == [type(event) for event in happened]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(p_data(pdv(b"data", LAST)), id="data set without command"),
        pytest.param(CUT + p_data(pdv(command_set(), COMMAND | LAST)), id="command in a data set"),
        pytest.param(CUT + p_data(pdv(b"more", LAST, 3)), id="data set in two contexts"),
        pytest.param(
            p_data(pdv(command_set()[:20], COMMAND)) + p_data(pdv(command_set()[20:], COMMAND | LAST, 3)),
            id="command in two contexts",
        ),
        pytest.param(p_data(*[pdv(bytes(16000), COMMAND)] * 650), id="command set of 10 MB"),
        pytest.param(p_data(pdv(b"\x08\x00\x16\x00\x00\x00\x00\x00", COMMAND | LAST)), id="another group"),
        pytest.param(p_data(pdv(command_set()[:-5], COMMAND | LAST)), id="command set cut off in a value"),
        pytest.param(p_data(pdv(command_set()[:-10], COMMAND | LAST)), id="command set cut off before a value"),
        pytest.param(p_data(pdv(b"", COMMAND | LAST)), id="empty command set"),
        pytest.param(p_data(pdv(element(0x0100, b"\1\0"), COMMAND | LAST)), id="no data set type"),
        pytest.param(p_data(pdv(command_set(0x8001, data_set=False), COMMAND | LAST)), id="response"),
    ],
)
def test_an_invalid_message_aborts_the_association(sent: bytes) -> None:
    talk = Talk().receive(associate(), sent)
    assert ["violation"] == talk.ended
    assert (0, 0) == abort_of(talk.sent)  # source: the DICOM UL service-user
    assert {} == talk.stored
    assert talk.acceptor.artim_runs  # the acceptor waits until the connection is closed


# --- associations -----------------------------------------------------------------------------------------------------


def primitive() -> A_ASSOCIATE:
    """Return a request of pynetdicom with every item that this acceptor evaluates."""
    proposal = A_ASSOCIATE()
    proposal.application_context_name = "1.2.840.10008.3.1.1.1"
    proposal.calling_ae_title, proposal.called_ae_title = "CT1", "LUNG"
    length, ours, window = (
        MaximumLengthNotification(),
        ImplementationClassUIDNotification(),
        AsynchronousOperationsWindowNegotiation(),
    )
    length.maximum_length_received, ours.implementation_class_uid = 32768, "1.2.3"
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, True, True
    proposal.user_information = [length, ours, window, role]
    contexts = [build_context(CT, [EXPLICIT, IMPLICIT]), build_context(VERIFICATION, [IMPLICIT])]
    contexts.append(build_context("1.2.840.10008.5.1.4.1.2.1.1", [IMPLICIT]))  # a query service
    for number, proposed in enumerate(contexts):
        proposed.context_id = 2 * number + 1
    proposal.presentation_context_definition_list = contexts
    return proposal


def test_pynetdicom_and_the_acceptor_read_each_others_pdus() -> None:
    request = A_ASSOCIATE_RQ()
    request.from_primitive(primitive())
    talk = Talk(16384).receive(request.encode())
    read = talk.acceptor.request
    assert read is not None
    assert (32768, {CT: (True, True)}, True) == (read.maximum_length, read.roles, read.has_window)

    answer = A_ASSOCIATE_AC()
    answer.decode(talk.sent)
    accepted = answer.to_primitive()
    assert [(1, 0, [EXPLICIT]), (3, 0, [IMPLICIT]), (5, 3, [IMPLICIT])] == [
        (item.context_id, item.result, item.transfer_syntax)
        for item in accepted.presentation_context_definition_results_list
    ]
    items = {type(item).__name__: item for item in accepted.user_information}
    assert 16384 == items["MaximumLengthNotification"].maximum_length_received
    assert 1 == items["AsynchronousOperationsWindowNegotiation"].maximum_number_operations_invoked
    role = items["SCP_SCU_RoleSelectionNegotiation"]
    assert (CT, True, False) == (role.sop_class_uid, role.scu_role, role.scp_role)
    assert "TEST-1" == items["ImplementationVersionNameNotification"].implementation_version_name


def test_128_presentation_contexts_are_answered() -> None:
    proposed = [
        context(number, f"1.2.840.10008.5.1.4.1.1.{number}", (EXPLICIT, IMPLICIT)) for number in range(1, 257, 2)
    ]
    talk = Talk().receive(associate(*proposed))
    answer = A_ASSOCIATE_AC()
    answer.decode(talk.sent)
    assert 128 == len(answer.presentation_context)


@pytest.mark.parametrize("refused", UNSUPPORTED_TRANSFER_SYNTAXES)
def test_unsupported_transfer_syntaxes_are_not_accepted(refused: str) -> None:
    [alone] = negotiate([ProposedContext(1, CT, (refused,))])
    assert 4 == alone.result
    [beside] = negotiate([ProposedContext(1, CT, (refused, IMPLICIT))])
    assert (0, IMPLICIT) == (beside.result, beside.transfer_syntax)


@pytest.mark.parametrize(
    ("name", "result"),
    [
        (CT, 0),
        ("1.2.840.10008.5.1.4.1.1.1.1.999", 0),  # a future storage class
        ("1.2.276.0.7230010.3.1.0.1", 0),  # private
        ("1.2.840.10008.1.20.1", 3),  # Storage Commitment Push Model
        ("1.2.840.10008.1.3.10", 3),  # Media Storage Directory
        ("1.2.840.10008.5.1.4.31", 3),  # Modality Worklist
        ("1.2.840.10008.3.1.2.3.3", 3),  # Modality Performed Procedure Step
    ],
)
def test_storage_is_accepted_and_other_services_are_not(name: str, result: int) -> None:
    assert result == negotiate([ProposedContext(1, name, (IMPLICIT,))])[0].result


def test_ae_titles_that_are_not_ascii_are_escaped() -> None:
    assert "LU\\xffNG" == decode_request(associate(called=b"LU\xffNG")[6:]).called_ae_title


# --- anything at all --------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.integers(0, len(CONVERSATION)))
@settings(max_examples=300, deadline=None)
def test_random_bytes_at_worst_end_the_association(noise: bytes, after: int) -> None:
    """No exception is raised."""
    Talk(16384).receive(associate(), CONVERSATION[:after] + noise + CONVERSATION[after:])


@given(st.lists(st.tuples(st.integers(0, len(CONVERSATION) - 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=500, deadline=None)
def test_changed_bytes_at_worst_end_the_association(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(CONVERSATION)
    for place, value in changes:
        changed[place] = value
    talk = Talk(16384).receive(associate(), bytes(changed))
    assert all(len(data) <= len(DATA_SET) for data in talk.stored.values())


@given(
    st.lists(st.tuples(st.integers(0, len(CONVERSATION) - 1), st.integers(0, 255)), max_size=4),
    st.lists(st.integers(1, 4000), max_size=40),
    st.sampled_from([0, 16384]),
)
@settings(max_examples=500, deadline=None)
def test_the_fast_path_has_the_same_result(changes: list[tuple[int, int]], sizes: list[int], most: int) -> None:
    """The fast path is `_parse_single_values`. Without it, each header and each value is parsed separately."""
    changed = bytearray(CONVERSATION)
    for place, value in changes:
        changed[place] = value
    turns = associate(), bytes(changed)
    quick = Talk(most).receive(*turns, sizes=sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UpperLayer, "_parse_single_values", lambda _self, _data: 0)
        slow = Talk(most).receive(*turns, sizes=sizes)
    assert (slow.stored, slow.aborted) == (quick.stored, quick.aborted)
    assert slow.sent == quick.sent
    assert list(map(type, slow.happened)) == list(map(type, quick.happened))


@given(st.lists(st.sampled_from([associate(), store(b"abc"), echo(), RELEASE_RQ, RELEASE_RP, ABORT, CUT]), max_size=8))
@settings(max_examples=300, deadline=None)
def test_whole_pdus_in_any_order_end_the_association_at_most_once(parts: list[bytes]) -> None:
    talk = Talk(16384).receive(associate(), b"".join(parts))
    ends = [event for event in talk.happened if isinstance(event, (AssociationEnd, ReleaseIndication))]
    assert len([event for event in ends if isinstance(event, AssociationEnd)]) <= 1
    assert {message for field, message, _status in talk.responses if field == 0x8001} <= set(talk.stored)


def test_an_endless_pdu_is_not_buffered() -> None:
    talk = Acceptor(0)
    for event in talk.receive(memoryview(associate())):
        assert isinstance(event, AssociateIndication)
    talk.accept(negotiate(talk.request.contexts), OURS)  # type: ignore[union-attr] # it was requested
    talk.receive(memoryview(p_data(pdv(command_set(), COMMAND | LAST)) + struct.pack(">BxI", 4, 2**32 - 1)))
    talk.receive(memoryview(struct.pack(">IBB", 2**32 - 5, 1, 0)))
    piece = memoryview(bytes(1 << 16))
    size = 0
    for _ in range(200):
        [view] = talk.receive(piece)
        assert isinstance(view, memoryview)
        assert view.obj is piece.obj
        size += len(view)
    assert 200 * len(piece) == size
