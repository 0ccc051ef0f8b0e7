"""Count the work of a receiver for `/metrics`: instances, bytes, associations and the time until each response.

All counting is done in the event loop, so it needs no lock, and takes about a microsecond for each instance.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Sequence
from typing import Any, TypeAlias

from attrs import frozen

from dicom_adapter.api.receiving import (
    AssociationDecision,
    AssociationRequest,
    RejectedPeer,
    StoreRequest,
    StoreResult,
)
from dicom_adapter.flow.store.incoming import IncomingInstance
from dicom_adapter.net.storage_scp import ClosedAssociation, Deliver, StorageScp
from dicom_adapter.runtime.measures import (
    ASSOCIATIONS,
    CUT_OFF,
    NO_AE_TITLE,
    OUTCOMES,
    RECEIVED_BYTES,
    RECEIVED_INSTANCES,
    REJECTED,
    REJECTIONS,
    STORE_RESPONSE,
)
from dicom_adapter.runtime.shared_counts import Counts, Distribution, Tally

# A request whose response is delivered later: the ticket of the network, the AE title, the bytes of the data set, and
# the monotonic time of its last byte. A tuple, because one is created for each instance.
_Ticket: TypeAlias = tuple[Any, str, int, float]


@frozen
class _StoreTallies:
    """The counters of one AE title and outcome."""

    instances: Tally
    size: Tally


class MeasuredScp(StorageScp[IncomingInstance]):
    """Passes all calls to a storage SCP, and counts them. Used in the event loop, except `decide` and `configure`."""

    def __init__(self, scp: StorageScp[IncomingInstance], counts: Counts, ae_titles: Container[str]) -> None:
        """`ae_titles`: the configured AE titles. Associations with other AE titles are counted together."""
        self._scp = scp
        self._counts = counts
        self._ae_titles = ae_titles
        self._tallies: dict[tuple[str, str], _StoreTallies] = {}
        self._responses: dict[str, Distribution] = {}

    def configure(self, ae_titles: Container[str]) -> None:
        """Apply another configuration. Thread-safe."""
        self._ae_titles = ae_titles

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Deliver, has_one_connection: Callable[[], bool]) -> None:
        def deliver_measured(answers: Sequence[tuple[_Ticket, StoreResult]]) -> None:
            deliver([(ticket, result) for (ticket, _ae_title, _size, _completed_at), result in answers])
            for (_ticket, ae_title, size, completed_at), result in answers:
                self._count_response(ae_title, result, size, completed_at)

        self._scp.start(loop, deliver_measured, has_one_connection)

    def decide_at_once(
        self, association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
    ) -> AssociationDecision | None:
        return self._scp.decide_at_once(association_id, request, associations, associations_of_peer)

    def decide(
        self, association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
    ) -> AssociationDecision:
        return self._scp.decide(association_id, request, associations, associations_of_peer)

    def begin_store(self, request: StoreRequest, refusal: StoreResult | None = None) -> IncomingInstance:
        return self._scp.begin_store(request, refusal)

    def complete_store(self, incoming: IncomingInstance, ticket: object) -> StoreResult | None:
        ae_title, size, now = incoming.request.ae_title, incoming.size, time.monotonic()
        result = self._scp.complete_store(incoming, (ticket, ae_title, size, now))
        if result is not None:
            self._count_response(ae_title, result, size, now)
        return result

    def abort_store(self, incoming: IncomingInstance) -> None:
        self._count_instance(incoming.request.ae_title, CUT_OFF, incoming.size)
        self._scp.abort_store(incoming)

    def peer_rejected(self, rejected: RejectedPeer) -> None:
        ae_title = rejected.called_ae_title if rejected.called_ae_title in self._ae_titles else NO_AE_TITLE
        self._counts.tally(REJECTIONS, ae_title, rejected.cause.value).add()
        if rejected.called_ae_title:  # otherwise no association was requested
            self._counts.tally(ASSOCIATIONS, ae_title, REJECTED).add()
        self._scp.peer_rejected(rejected)

    def association_closed(self, association: ClosedAssociation) -> None:
        self._counts.tally(ASSOCIATIONS, association.request.called_ae_title, association.how).add()
        self._scp.association_closed(association)

    def _count_response(self, ae_title: str, result: StoreResult, size: int, completed_at: float) -> None:
        self._count_instance(ae_title, OUTCOMES[result.outcome], size)
        responses = self._responses.get(ae_title)
        if responses is None:
            responses = self._responses[ae_title] = self._counts.distribution(STORE_RESPONSE, ae_title)
        responses.observe(time.monotonic() - completed_at)

    def _count_instance(self, ae_title: str, outcome: str, size: int) -> None:
        tallies = self._tallies.get((ae_title, outcome))
        if tallies is None:
            instances = self._counts.tally(RECEIVED_INSTANCES, ae_title, outcome)
            tallies = _StoreTallies(instances, self._counts.tally(RECEIVED_BYTES, ae_title, outcome))
            self._tallies[ae_title, outcome] = tallies
        tallies.instances.add()
        tallies.size.add(size)
