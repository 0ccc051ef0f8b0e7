"""The upper layer against PS3.8: each cell of the state table, and invalid PDUs."""

from __future__ import annotations

import struct

import pytest

from dicom_adapter.net.indications import (
    AssociateIndication,
    AssociationEnd,
    AssociationState,
    Fragment,
    ProviderRejection,
)
from dicom_adapter.net.upper_layer import UpperLayer
from support.conversation import (
    ABORT,
    LAST,
    RELEASE_RP,
    RELEASE_RQ,
    abort_of,
    associate,
    context,
    item,
    p_data,
    pdu,
    pdus,
    pdv,
)

AC, RJ = b"accepted", (1, 1, 1)  # any bytes instead of an A-ASSOCIATE-AC; result, source and reason of a rejection
PDUS = {
    "A-ASSOCIATE-RQ": associate(),
    "A-ASSOCIATE-AC": pdu(0x02, bytes(68)),
    "A-ASSOCIATE-RJ": pdu(0x03, bytes(4)),
    "P-DATA-TF": p_data(pdv(b"data", LAST)),
    "A-RELEASE-RQ": RELEASE_RQ,
    "A-RELEASE-RP": RELEASE_RP,
    "A-ABORT": ABORT,
    "invalid PDU": pdu(0x0B, bytes(4)),
}

# The effect of each action in PS3.8 tables 9-6 to 9-9: the next state, the source of an A-ABORT that is sent, and
# how the association ends.
SERVICE_USER, SERVICE_PROVIDER = 0, 2
EFFECTS = {
    "AE-6": (AssociationState.AWAITING_DECISION, None, None),
    "DT-2": (AssociationState.ESTABLISHED, None, None),
    "AR-2": (AssociationState.AWAITING_RELEASE, None, None),
    "AA-1": (AssociationState.AWAITING_CLOSE, SERVICE_USER, "violation"),
    "AA-2": (AssociationState.IDLE, None, None),
    "AA-3": (AssociationState.IDLE, None, "aborted"),
    "AA-6": (AssociationState.AWAITING_CLOSE, None, None),
    "AA-7": (AssociationState.AWAITING_CLOSE, SERVICE_PROVIDER, None),
    "AA-8": (AssociationState.AWAITING_CLOSE, SERVICE_PROVIDER, "violation"),
}
# PS3.8 table 9-10, transcribed independently, in the order of its rows and columns.
CELLS = {
    "A-ASSOCIATE-AC": "AA-1 AA-8 AA-8 AA-8 AA-6",
    "A-ASSOCIATE-RJ": "AA-1 AA-8 AA-8 AA-8 AA-6",
    "A-ASSOCIATE-RQ": "AE-6 AA-8 AA-8 AA-8 AA-7",
    "P-DATA-TF": "AA-1 AA-8 DT-2 AA-8 AA-6",
    "A-RELEASE-RQ": "AA-1 AA-8 AR-2 AA-8 AA-6",
    "A-RELEASE-RP": "AA-1 AA-8 AA-8 AA-8 AA-6",
    "A-ABORT": "AA-2 AA-3 AA-3 AA-3 AA-2",
    "invalid PDU": "AA-1 AA-8 AA-8 AA-8 AA-7",
}
STATES = [
    AssociationState.AWAITING_REQUEST,
    AssociationState.AWAITING_DECISION,
    AssociationState.ESTABLISHED,
    AssociationState.AWAITING_RELEASE,
    AssociationState.AWAITING_CLOSE,
]


def received(layer: UpperLayer, data: memoryview) -> list[object]:
    return list(layer.receive(data))


def layer_in(state: AssociationState, maximum_length: int = 16384) -> UpperLayer:
    """Return an upper layer in a state, by the shortest path."""
    layer = UpperLayer(maximum_length)
    if state is not AssociationState.AWAITING_REQUEST:
        received(layer, memoryview(associate()))
    if state in (AssociationState.ESTABLISHED, AssociationState.AWAITING_RELEASE):
        layer.accept(AC, frozenset({1}))
    if state is AssociationState.AWAITING_RELEASE:
        received(layer, memoryview(RELEASE_RQ))
    if state is AssociationState.AWAITING_CLOSE:
        layer.reject(*RJ)
    assert state is layer.state
    layer.take_outgoing()
    return layer


@pytest.mark.parametrize(
    ("state", "name", "action"),
    [(state, name, action) for name, row in CELLS.items() for state, action in zip(STATES, row.split(), strict=True)],
)
def test_every_pdu_has_the_effect_of_the_standard_in_every_state(
    state: AssociationState, name: str, action: str
) -> None:
    layer = layer_in(state)
    events = received(layer, memoryview(PDUS[name]))
    next_state, abort_source, how = EFFECTS[action]
    assert next_state is layer.state
    sent = abort_of(layer.take_outgoing())
    assert abort_source == (None if sent is None else sent[0])
    assert how == next((event.how for event in events if isinstance(event, AssociationEnd)), None)
    assert (action in ("AA-2", "AA-3")) is layer.is_to_close
    assert (next_state in (AssociationState.AWAITING_REQUEST, AssociationState.AWAITING_CLOSE)) is layer.artim_runs


@pytest.mark.parametrize(
    ("state", "how"),
    [
        (AssociationState.AWAITING_REQUEST, None),
        (AssociationState.AWAITING_DECISION, "lost"),
        (AssociationState.ESTABLISHED, "lost"),
        (AssociationState.AWAITING_RELEASE, "lost"),
        (AssociationState.AWAITING_CLOSE, None),
    ],
)
def test_a_closed_connection_ends_every_state(state: AssociationState, how: str | None) -> None:
    layer = layer_in(state)
    events = layer.closed()
    assert how == next((event.how for event in events if isinstance(event, AssociationEnd)), None)
    assert AssociationState.IDLE is layer.state
    assert not layer.artim_runs
    assert [] == layer.closed()


@pytest.mark.parametrize("state", [AssociationState.AWAITING_REQUEST, AssociationState.AWAITING_CLOSE])
def test_artim_closes_the_connection(state: AssociationState) -> None:
    layer = layer_in(state)
    layer.artim_expired()
    assert layer.is_to_close
    assert b"" == layer.take_outgoing()


@pytest.mark.parametrize("state", STATES[:-1])
def test_a_local_abort_is_sent_to_the_peer(state: AssociationState) -> None:
    layer = layer_in(state)
    layer.abort()
    assert (SERVICE_USER, 0) == abort_of(layer.take_outgoing())
    assert AssociationState.AWAITING_CLOSE is layer.state


def test_an_association_can_be_requested_and_released() -> None:
    layer = UpperLayer(16384)
    [requested] = received(layer, memoryview(associate()))
    assert isinstance(requested, AssociateIndication)
    assert ("LUNG", "CT1") == (requested.request.called_ae_title, requested.request.calling_ae_title)
    layer.accept(AC, frozenset({1}))
    assert AC == layer.take_outgoing()
    received(layer, memoryview(RELEASE_RQ))
    layer.release()
    assert RELEASE_RP == layer.take_outgoing()
    assert [] == layer.closed()


def test_the_values_of_one_p_data_pdu_are_returned_in_order() -> None:
    layer = layer_in(AssociationState.ESTABLISHED)
    events = received(layer, memoryview(p_data(pdv(b"one", 1), pdv(b"two", 3), pdv(b"", 2), pdv(b"x", 0))))
    assert [(b"one", True, False), (b"two", True, True), (b"", False, True), (b"x", False, False)] == [
        (bytes(event.data), event.is_command, event.is_last) for event in events if isinstance(event, Fragment)
    ]


def test_fragments_are_views_of_the_receive_buffer() -> None:
    """No bytes are copied: a change of the buffer changes the fragment."""
    buffer = bytearray(p_data(pdv(b"large", LAST)))
    [fragment] = received(layer_in(AssociationState.ESTABLISHED), memoryview(buffer))
    assert isinstance(fragment, Fragment)
    buffer[-5:] = b"other"
    assert b"other" == bytes(fragment.data)


INVALID, UNRECOGNIZED, UNEXPECTED = 6, 1, 2  # reasons of A-ABORT


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(pdu(0x00, b""), UNRECOGNIZED, id="no such type"),
        pytest.param(pdu(0x08, b""), UNRECOGNIZED, id="future type"),
        pytest.param(pdu(0x04, b""), INVALID, id="P-DATA of length 0"),
        pytest.param(pdu(0x04, b"\0"), INVALID, id="P-DATA of length 1"),
        pytest.param(pdu(0x04, bytes(5)), INVALID, id="P-DATA of length 5"),
        pytest.param(pdu(0x04, b"", 2**32 - 1), INVALID, id="P-DATA of length 2^32-1"),
        pytest.param(pdu(0x04, b"", 16385), INVALID, id="P-DATA above the negotiated length"),
        pytest.param(p_data(pdv(bytes(16380), 0)), INVALID, id="whole P-DATA above the negotiated length"),
        pytest.param(p_data(struct.pack(">IBB", 1, 1, 0)), INVALID, id="value of length 1"),
        pytest.param(p_data(struct.pack(">IBB", 0, 1, 0)), INVALID, id="value of length 0"),
        pytest.param(p_data(struct.pack(">IBB", 2**32 - 1, 1, 0)), INVALID, id="value of length 2^32-1"),
        pytest.param(p_data(struct.pack(">IBB", 4, 1, 0) + b"x"), INVALID, id="value beyond its PDU"),
        pytest.param(p_data(pdv(b"x", 2) + b"abc"), INVALID, id="rest behind the last value"),
        pytest.param(p_data(pdv(b"x", 2, 5)), INVALID, id="context that was not accepted"),
        pytest.param(pdu(0x05, bytes(5)), INVALID, id="A-RELEASE-RQ of 5 bytes"),
        pytest.param(pdu(0x07, bytes(3)), INVALID, id="A-ABORT of 3 bytes"),
        pytest.param(pdu(0x01, b"", 2**32 - 1), INVALID, id="A-ASSOCIATE-RQ of 2^32-1 bytes"),
        pytest.param(associate(), UNEXPECTED, id="second A-ASSOCIATE-RQ"),
    ],
)
def test_a_violation_aborts_with_the_reason(sent: bytes, reason: int) -> None:
    layer = layer_in(AssociationState.ESTABLISHED)
    events = received(layer, memoryview(sent + p_data(pdv(b"more", 2))))
    assert (SERVICE_PROVIDER, reason) == abort_of(layer.take_outgoing())
    assert ["violation"] == [event.how for event in events if isinstance(event, AssociationEnd)]
    assert [] == [event for event in events if isinstance(event, Fragment) and event.data == b"more"]


@pytest.mark.parametrize("length", [4096, 0], ids=["4096", "unlimited"])
def test_the_longest_accepted_p_data_pdu_is_the_negotiated_one(length: int) -> None:
    layer = layer_in(AssociationState.ESTABLISHED, length)
    size = (length or 10_000_000) - 6
    events = received(layer, memoryview(p_data(pdv(bytes(size), LAST))))
    assert size == sum(len(event.data) for event in events if isinstance(event, Fragment))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(pdu(0x01, b""), id="empty"),
        pytest.param(pdu(0x01, bytes(67)), id="too short"),
        pytest.param(pdu(0x01, bytes(68)), id="no items"),
        pytest.param(associate(item(0x30, "1.2")), id="no contexts"),
        pytest.param(associate(context(1)[:-3]), id="context with a wrong length"),
        pytest.param(associate(item(0x20, b"\1\0\0")), id="context of 3 bytes"),
        pytest.param(associate(item(0x20, b"\1\0\0\0" + b"\x30\0\0\x09x")), id="item of a context cut off"),
        pytest.param(pdu(0x01, associate()[6:] + b"\x20\0\xff\xff"), id="item cut off"),
    ],
)
def test_an_invalid_request_is_aborted(sent: bytes) -> None:
    layer = UpperLayer(16384)
    events = received(layer, memoryview(sent))
    assert ["violation"] == [event.how for event in events if isinstance(event, AssociationEnd)]
    assert (SERVICE_USER, 0) == abort_of(layer.take_outgoing())  # AA-1


@pytest.mark.parametrize(
    ("sent", "rejection"),
    [
        pytest.param(associate(version=2), (1, 2, 2), id="future protocol version"),
        pytest.param(associate(application="1.2.3"), (1, 1, 2), id="another application"),
    ],
)
def test_unsupported_versions_and_applications_are_rejected_by_the_provider(
    sent: bytes, rejection: tuple[int, ...]
) -> None:
    layer = UpperLayer(16384)
    [rejected] = received(layer, memoryview(sent))
    assert isinstance(rejected, ProviderRejection)
    [(kind, body)] = pdus(layer.take_outgoing())
    assert (0x03, rejection) == (kind, tuple(body[1:]))


def test_bits_of_other_protocol_versions_are_ignored() -> None:
    """PS3.8 section 9.3.2: each bit is a version, and the acceptor tests only the bit of its version."""
    [requested] = received(UpperLayer(16384), memoryview(associate(version=3)))
    assert isinstance(requested, AssociateIndication)
