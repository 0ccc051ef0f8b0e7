"""The interface between the DICOM server (`DicomServer`) and a storage SCP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from attrs import frozen

from dicom_adapter.api.receiving import (
    AssociationDecision,
    AssociationRequest,
    IncomingDataSet,
    StoreRequest,
    StoreResult,
)

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


class StorageScp(Protocol[DataSetT]):
    """The decisions of a storage SCP: it accepts or rejects associations, and stores or refuses instances.

    All methods except `decide` are called in the event loop, and must return quickly.
    """

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Deliver, has_one_connection: Callable[[], bool]) -> None:
        """Prepare for connections. Called once, before all other methods.

        `deliver` sends results to their requestors. `has_one_connection()` returns whether exactly one connection is
        open and no other is being opened. Both must be called in the loop.
        """

    def decide(
        self, association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
    ) -> AssociationDecision:
        """Accept or reject.

        `associations`: number of open associations; `associations_of_peer`: number of open associations with this peer.
        Called on several threads; may block.
        """

    def begin_store(self, request: StoreRequest, refusal: StoreResult | None = None) -> DataSetT:
        """Prepare for the data set of an instance.

        `refusal`: result of an instance that is refused before its data set arrives: receive the data set, but do not
        store it.
        """

    def complete_store(self, incoming: DataSetT, ticket: object) -> StoreResult | None:
        """Complete an instance. Return its result, or None if `deliver` will be called later with `ticket`."""

    def association_closed(self, association: ClosedAssociation) -> None:
        """Record the end of an accepted association."""
