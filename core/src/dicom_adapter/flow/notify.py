"""Step 3: find out what has arrived, so that lanes take it and observers hear of it.

Lanes read their own rows, in order and a batch at a time, from where they stopped; so whether an instance has just
arrived, or was waiting when the host started, makes no difference to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.model import InstanceStorageInfo

BATCH = 1000  # rows read at a time


@frozen(kw_only=True)
class Arrived:
    """A batch of arrivals."""

    instances: Sequence[InstanceStorageInfo]
    replaced: Sequence[int]  # ids of earlier arrivals that some of these stand for


class Notify:
    """Follows the ledger from the moment it was made. Used by one thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        with ledger.read() as transaction:
            self._seen = instances.last_number(transaction)

    def arrived(self) -> Iterator[Arrived]:
        """What came since the last call, a batch at a time, in the order of arrival."""
        while True:
            with self._ledger.read() as transaction:
                batch = instances.arrived_after(transaction, self._seen, BATCH)
                if not batch:
                    return
                replaced = instances.replaced_by(transaction, batch[0].instance_id, batch[-1].instance_id)
            self._seen = batch[-1].instance_id
            yield Arrived(instances=batch, replaced=replaced)
