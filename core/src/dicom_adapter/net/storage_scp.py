"""The interface between the DICOM server (`DicomServer`) and a storage SCP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import structlog
from attrs import frozen

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.receiving import (
    AssociationDecision,
    AssociationRequest,
    IncomingDataSet,
    RejectedPeer,
    Rejection,
    RejectionCause,
    StoreRequest,
    StoreResult,
)

log = structlog.get_logger("dicom_adapter.net")

# Delivers results: pairs of a ticket and a result. The ticket is the object passed to `complete_store`; it identifies
# the request.
Deliver: TypeAlias = Callable[[Sequence[tuple[Any, StoreResult]]], None]

DataSetT = TypeVar("DataSetT", bound=IncomingDataSet)


@frozen(kw_only=True)
class ClosedAssociation:
    """An accepted association that has ended."""

    association_id: str
    request: AssociationRequest
    how: str  # "released", "aborted" or "lost"
    statuses: Mapping[str, int]  # number of C-STORE responses by name of the status
    instances: int = 0  # number of instances that were stored
    stored_bytes: int = 0  # size of their files
    seconds: float = 0.0  # from the request for the association to its end


class StorageScp(Protocol[DataSetT]):
    """The decisions of a storage SCP: it accepts or rejects associations, and stores or refuses instances.

    All methods except `decide` are called in the event loop, and must return quickly.
    """

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Deliver, has_one_connection: Callable[[], bool]) -> None:
        """Prepare for connections. Called once, before all other methods.

        `deliver` sends results to their requestors. `has_one_connection()` returns whether exactly one connection is
        open and no other is being opened. Both must be called in the loop.
        """

    def decide_at_once(
        self, association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
    ) -> AssociationDecision | None:
        """Accept or reject an association without blocking. Return None if that is impossible: `decide` is called then.

        `associations`: number of open associations; `associations_of_peer`: number of open associations with this peer.
        """

    def decide(
        self, association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
    ) -> AssociationDecision:
        """Accept or reject an association. The arguments are those of `decide_at_once`.

        Called on several threads; may block.
        """

    def begin_store(self, request: StoreRequest, refusal: StoreResult | None = None) -> DataSetT:
        """Prepare for the data set of an instance.

        `refusal`: result of an instance that is refused before its data set arrives: receive the data set, but do not
        store it.
        """

    def complete_store(self, incoming: DataSetT, ticket: object) -> StoreResult | None:
        """Complete an instance. Return its result, or None if `deliver` will be called later with `ticket`."""

    def abort_store(self, incoming: DataSetT) -> None:
        """Discard an instance: the association ends before its data set is complete."""

    def peer_rejected(self, rejected: RejectedPeer) -> None:
        """Record the rejection of an association, or of a connection before its association."""

    def association_closed(self, association: ClosedAssociation) -> None:
        """Record the end of an accepted association."""


STOPPING = AssociationDecision(
    rejection=Rejection.TEMPORARY_CONGESTION, cause=RejectionCause.STOPPED, reason="the service is stopping"
)
UNDECIDED = AssociationDecision(
    rejection=Rejection.TEMPORARY_CONGESTION, cause=RejectionCause.UNDECIDED, reason="no decision was possible"
)


def decide_at_once_safely(
    scp: StorageScp[Any], association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
) -> AssociationDecision | None:
    """Return the decision of the storage SCP if it needs no other thread. After any error, the association is rejected.

    As `decide_safely`, but called in the event loop.
    """
    try:
        return scp.decide_at_once(association_id, request, associations, associations_of_peer)
    except Exception as failure:  # noqa: BLE001 - no error may end the event loop
        return _undecided(association_id, failure)


def decide_safely(
    scp: StorageScp[Any], association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
) -> AssociationDecision:
    """Return the decision of the storage SCP. After any error, the association is rejected."""
    try:
        return scp.decide(association_id, request, associations, associations_of_peer)
    except Exception as failure:  # noqa: BLE001 - for example, the ledger cannot be read
        return _undecided(association_id, failure)


def _undecided(association_id: str, failure: Exception) -> AssociationDecision:
    log.error("association_decision_failed", association_id=association_id, error=describe_failure(failure))
    return UNDECIDED
