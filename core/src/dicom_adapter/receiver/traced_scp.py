"""The span `receive` of each association with instances. It is used only while traces are on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from dicom_adapter.api.errors import LedgerError, describe_failure
from dicom_adapter.api.receiving import (
    AssociationDecision,
    AssociationRequest,
    RejectedPeer,
    StoreRequest,
    StoreResult,
)
from dicom_adapter.flow.store.incoming import IncomingInstance
from dicom_adapter.ledger import trace_contexts
from dicom_adapter.net.storage_scp import ClosedAssociation, Deliver, StorageScp
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.traces import Span

log = structlog.get_logger("dicom_adapter.receiver")


class TracedScp(StorageScp[IncomingInstance]):
    """Passes all calls to a storage SCP. Used in the event loop, except `decide`.

    A thread writes the context of an association to the ledger when its first instance begins: no response waits.
    """

    def __init__(self, scp: StorageScp[IncomingInstance], resources: Resources) -> None:
        self._scp = scp
        self._traces, self._ledger, self._clock = resources.traces, resources.ledger, resources.clock
        self._open: dict[str, Span] = {}  # by association id
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trace contexts")

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Deliver, has_one_connection: Callable[[], bool]) -> None:
        self._scp.start(loop, deliver, has_one_connection)

    def decide_at_once(
        self, association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
    ) -> AssociationDecision | None:
        return self._scp.decide_at_once(association_id, request, associations, associations_of_peer)

    def decide(
        self, association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
    ) -> AssociationDecision:
        return self._scp.decide(association_id, request, associations, associations_of_peer)

    def begin_store(self, request: StoreRequest, refusal: StoreResult | None = None) -> IncomingInstance:
        if request.association_id not in self._open:
            span = self._open[request.association_id] = self._traces.start("receive")
            span.set(ae_title=request.ae_title, association_id=request.association_id)
            self._writer.submit(self._record, request.association_id, span.context)
        return self._scp.begin_store(request, refusal)

    def complete_store(self, incoming: IncomingInstance, ticket: object) -> StoreResult | None:
        return self._scp.complete_store(incoming, ticket)

    def abort_store(self, incoming: IncomingInstance) -> None:
        self._scp.abort_store(incoming)

    def peer_rejected(self, rejected: RejectedPeer) -> None:
        self._scp.peer_rejected(rejected)

    def association_closed(self, association: ClosedAssociation) -> None:
        span = self._open.pop(association.association_id, None)
        if span is not None:
            span.set(instances=sum(association.statuses.values()), outcome=association.how)
            span.end()
        self._scp.association_closed(association)

    def close(self) -> None:
        """Write the contexts that wait, and export the last spans."""
        self._writer.shutdown()
        self._traces.close()

    def _record(self, association_id: str, context: str) -> None:
        try:
            with self._ledger.write(synced=False) as transaction:
                trace_contexts.insert(transaction, association_id, context, self._clock.now())
        except LedgerError as failure:
            log.warning("trace_context_not_recorded", association_id=association_id, error=describe_failure(failure))
