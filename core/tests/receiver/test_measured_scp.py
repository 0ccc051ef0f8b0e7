"""The counts of a receiver, over real associations."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from dicom_adapter.api.receiving import (
    RejectedPeer,
    RejectionCause,
    StoreOutcome,
)
from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net.server import DicomServer
from dicom_adapter.receiver.measured_scp import MeasuredScp
from dicom_adapter.runtime.measures import (
    ASSOCIATIONS,
    OUTCOMES,
    RECEIVED_BYTES,
    RECEIVED_INSTANCES,
    REJECTIONS,
    STORE_RESPONSE,
    Measure,
)
from dicom_adapter.runtime.shared_counts import Counts
from support.conversation import associate, store
from support.listening import SECONDS, Decisions, SlowCommits, wait_until


class Counted:
    """A server whose work is counted."""

    def __init__(self, decisions: Decisions) -> None:
        self.decisions = decisions
        self.counts = Counts(has_one_thread=True)
        self.scp = MeasuredScp(decisions, self.counts, {"LUNG"})
        self.server = DicomServer(DicomConfig(port=0, bind="127.0.0.1"), self.scp)
        self.port = self.server.start()

    def values(self, measure: Measure) -> dict[tuple[str, ...], tuple[int, ...]]:
        return {one.labels: one.values for one in self.counts.series() if one.name == measure.name}

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), SECONDS)
        connection.sendall(associate(called=b"LUNG"))
        read_pdu(connection)
        return connection


def read_pdu(connection: socket.socket) -> None:
    header = connection.recv(6, socket.MSG_WAITALL)
    connection.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)


@pytest.fixture(params=[Decisions, SlowCommits])
def counted(request: Any) -> Iterator[Counted]:
    """Return a server that answers at once, or later."""
    server = Counted(request.param())
    yield server
    server.server.stop(0)


def test_instances_are_counted_with_the_time_of_their_responses(counted: Counted) -> None:
    with counted.connect() as connection:
        for _number in range(2):
            connection.sendall(store(bytes(10)))
            if isinstance(counted.decisions, SlowCommits):
                counted.decisions.commit(counted.decisions.completed.get(timeout=SECONDS))
            read_pdu(connection)
    wait_until(lambda: bool(counted.values(ASSOCIATIONS)))
    assert {("LUNG", "ignored"): (2,)} == counted.values(RECEIVED_INSTANCES)
    assert [("LUNG", "ignored")] == list(counted.values(RECEIVED_BYTES))
    ((*buckets, total),) = counted.values(STORE_RESPONSE).values()
    assert 2 == sum(buckets)
    assert 0 < total < SECONDS * 10**9
    assert {("LUNG", "lost"): (1,)} == counted.values(ASSOCIATIONS)


def test_rejections_of_unknown_ae_titles_have_one_series() -> None:
    """The called AE title comes from the network. Verified to fail when it is used as the label."""
    scp = MeasuredScp(Decisions(), counts := Counts(), {"LUNG"})  # type: ignore[arg-type] # a fake
    for number in range(3):
        scp.peer_rejected(rejected(f"AE{number}", RejectionCause.CALLED_AE_TITLE))
    scp.peer_rejected(rejected("LUNG", RejectionCause.SPACE))
    scp.peer_rejected(rejected("", RejectionCause.TLS))
    found = {(one.name, *one.labels): one.values for one in counts.series()}
    assert {
        (REJECTIONS.name, "", "called-ae-title"): (3,),
        (REJECTIONS.name, "LUNG", "space"): (1,),
        (REJECTIONS.name, "", "tls"): (1,),
        (ASSOCIATIONS.name, "", "rejected"): (3,),
        (ASSOCIATIONS.name, "LUNG", "rejected"): (1,),
    } == found
    scp.configure({"LUNG", "AE1"})
    scp.peer_rejected(rejected("AE1", RejectionCause.SPACE))
    assert (1,) == {one.labels: one.values for one in counts.series()}["AE1", "space"]


def rejected(ae_title: str, cause: RejectionCause) -> RejectedPeer:
    return RejectedPeer(peer_address="10.0.0.5", called_ae_title=ae_title, cause=cause, reason="")


def test_outcomes_are_words_without_spaces() -> None:
    assert set(StoreOutcome) == set(OUTCOMES)
    assert all(word == word.lower() and " " not in word for word in OUTCOMES.values())
