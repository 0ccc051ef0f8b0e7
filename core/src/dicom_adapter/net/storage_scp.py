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

Deliver: TypeAlias = Callable[[Sequence[tuple[Any, StoreResult]]], None]  # results, each with its ticket

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

        `deliver` must be called in the loop; it receives results with the tickets passed to `complete_store`.
        `has_one_connection()` must be called in the loop; it returns False if another connection is open or is being
        opened.
        """

    def decide(
        self, association_id: str, request: AssociationRequest, associations: int, of_peer: int
    ) -> AssociationDecision:
        """Accept or reject.

        `associations`: number of open associations; `of_peer`: the number of these with this peer.
        Called on several threads; may block.
        """

    def begin_store(self, request: StoreRequest, refusal: StoreResult | None = None) -> DataSetT:
        """Prepare for the data set of an instance. `refusal`: the instance is already refused; do not store it."""

    def complete_store(self, incoming: DataSetT, ticket: object) -> StoreResult | None:
        """Complete an instance. Returns None if the result will be delivered later, with `ticket`."""

    def association_closed(self, association: ClosedAssociation) -> None:
        """Record the end of an accepted association."""
