"""Refusals of a receiver are shown by the health, with the cause, until the cause has gone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import NoReturn

import pytest
from attrs import evolve

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import (
    AssociationDecision,
    AssociationRequest,
    RejectedPeer,
    RejectionCause,
    StoreResult,
)
from dicom_adapter.api.values import Capacity
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger.health import PartState
from dicom_adapter.net.admission import Admission
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.receiver.refusals import MAX_KEPT, MAX_LISTED, RecentRefusals
from dicom_adapter.runtime.watch import PartFinding
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter, VirtualClock

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[dicom]
max-associations = 1
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-a = "1" }
"""
REQUEST = AssociationRequest(called_ae_title="LUNG", calling_ae_title="CT1", peer_address="10.0.0.7")


class Site:
    """The refusals of a receiver whose clock the test moves."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.refusals = RecentRefusals(self.clock.now)
        self.free_bytes = 0
        self.at_limit: set[str] = set()

    def finding(self, after: float = 0) -> PartFinding:
        """Return the finding after this time in seconds."""
        self.clock.advance(after)
        self.refusals.forget_old(lambda size: size <= self.free_bytes, self.at_limit)
        return self.refusals.finding()


def test_a_refusal_is_shown_with_counts_and_forgotten_within_a_minute() -> None:
    """The reason is the newest one. Each refusal extends the time."""
    site = Site()
    site.refusals.record("association", "the disk is full")
    site.clock.advance(40)
    site.refusals.record("instance", "it could not be stored (OSError)")
    site.refusals.record("instance", "it could not be stored (OSError)")
    reason = "1 association and 2 instances refused since 2026-01-05 08:00:00 UTC: it could not be stored (OSError)"
    assert PartFinding(state=PartState.FAILING, reason=reason) == site.finding(45)
    assert PartFinding() == site.finding(1)


def test_a_data_set_without_enough_space_is_shown_until_there_is_enough() -> None:
    """There may be space for smaller data sets. Verified to fail when only the time since the refusal counts."""
    site = Site()
    site.refusals.record("instance", "storage has 499999 bytes left, reserve = 0", 500_000)
    site.free_bytes = 499_999
    finding = site.finding(3000)
    assert PartState.FAILING is finding.state
    assert finding.reason.endswith("reserve = 0; the largest data set has 500000 bytes")
    site.free_bytes = 500_000
    assert PartFinding() == site.finding()


def test_a_sender_at_its_limit_is_shown_until_it_may_open_another_association() -> None:
    """A reached limit makes the health only yellow: all parts work. A few senders are listed, the others counted."""
    site = Site()
    site.at_limit = {"10.0.0.7"}
    site.refusals.record_limit("association", "max-associations-per-peer = 2 are open from this address", "10.0.0.7")
    reason = (
        "10.0.0.7: 1 association refused since 2026-01-05 08:00:00 UTC: max-associations-per-peer = 2 are open from "
        "this address"
    )
    assert PartFinding(state=PartState.DEGRADED, reason=reason) == site.finding(3000)
    site.at_limit.clear()
    assert PartFinding() == site.finding()
    for number in range(1000):
        site.refusals.record_limit("connection", "too many", f"10.0.1.{number}")
    assert site.finding().reason.endswith(f"; and {MAX_KEPT - MAX_LISTED} other senders")
    assert PartFinding() == site.finding(46)


def test_a_receiver_reports_what_it_refuses_for_local_reasons(make_adapter: MakeAdapter) -> None:
    """A failing disk and a reached limit are local reasons. A data set of another instance is the sender's error.

    Verified to fail when `complete_store`, or `peer_rejected`, does not record refusals.
    """
    adapter = make_adapter(CONFIGURATION)
    receiver = Receiver(adapter.config, adapter.resources, None)
    data_set = make_instance()
    request = make_request(data_set, "LUNG", "CT1", "a")
    incoming = receiver.begin_store(request)
    incoming.write([encode(make_instance(seed="another"))])
    receiver.complete_store(incoming, None)
    assert PartFinding() == receiver.refusals.finding()

    adapter.storage.writer = unwritable  # type: ignore[method-assign]
    receiver.complete_store(receiver.begin_store(request), None)
    finding = receiver.refusals.finding()
    assert (PartState.FAILING, True) == (finding.state, finding.reason.endswith("it could not be stored (OSError)"))

    adapter.clock.advance(60)
    decision = receiver.decide("b", REQUEST, associations=1, associations_of_peer=0)
    receiver.peer_rejected(RejectedPeer.by(decision, REQUEST))
    receiver.check(at_limit=set())
    assert PartState.DEGRADED is receiver.refusals.finding().state
    assert AssociationDecision() == receiver.decide("c", REQUEST, associations=0, associations_of_peer=0)
    receiver.close()


def test_a_receiver_reports_failed_commits(make_adapter: MakeAdapter) -> None:
    """Verified to fail when refusals at the commit are not recorded."""
    adapter = make_adapter(CONFIGURATION)
    receiver = Receiver(adapter.config, adapter.resources, None)
    receiver._commits = CommitsOnThisThread(receiver)  # type: ignore[assignment] # has the only method that the receiver calls
    data_set = make_instance()
    incoming = receiver.begin_store(make_request(data_set, "LUNG", "CT1", "a"))
    incoming.write([encode(data_set)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adapter.ledger, "write", locked)
        assert receiver.complete_store(incoming, None) is not None
    finding = receiver.refusals.finding()
    assert (PartState.FAILING, True) == (finding.state, finding.reason.startswith("1 instance refused since "))

    adapter.clock.advance(60)
    receiver.check(at_limit=set())
    assert PartFinding() == receiver.refusals.finding()
    receiver._commits = None
    receiver.close()


def test_a_receiver_reports_associations_without_space(make_adapter: MakeAdapter) -> None:
    """A rejection at a stopped AE title is not reported here: its part shows it, and other AE titles are not affected.

    Verified to fail when rejections are not recorded, or all of them are.
    """
    adapter = make_adapter('[storage]\npath = "data"\nreserve = 1000\n' + CONFIGURATION)
    adapter.storage.capacity = lambda: Capacity(total_bytes=1000, free_bytes=0)  # type: ignore[method-assign]
    with closing(Receiver(adapter.config, adapter.resources, None)) as receiver:
        rejected = RejectedPeer.by(receiver.decide("a", REQUEST, associations=0, associations_of_peer=0), REQUEST)
        receiver.peer_rejected(evolve(rejected, cause=RejectionCause.STOPPED))
        assert PartFinding() == receiver.refusals.finding()
        receiver.peer_rejected(rejected)
        finding = receiver.refusals.finding()
    assert (PartState.FAILING, True) == (finding.state, finding.reason.startswith("1 association refused since "))


class CommitsOnThisThread:
    """Commits each instance at once."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def put(self, received: ReceivedInstance, _ticket: object) -> StoreResult:
        return self._receiver._commit([received])[0]


def locked(**_options: object) -> NoReturn:
    raise LedgerUnavailable("database is locked", is_busy=True)


def unwritable() -> None:
    raise OSError("the disk fails")


def test_the_peers_at_their_limit_are_known(make_adapter: MakeAdapter) -> None:
    """The empty string stands for all peers together."""
    adapter = make_adapter(CONFIGURATION.replace("= 1", "= 3\nmax-associations-per-peer = 2", 1))
    admission = Admission(adapter.config.dicom, loop=None)  # type: ignore[arg-type] # only for waiting requests
    peers = []
    for peer in ("10.0.0.7", "10.0.0.7", "10.0.0.8"):
        admission.open_association(peer)
        peers.append(admission.peers_at_limit())
    assert [set(), {"10.0.0.7"}, {"10.0.0.7", ""}] == peers
