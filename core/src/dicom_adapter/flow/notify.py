"""Step 3: detect new instances, to wake their lanes and to notify observers.

Lanes read their own rows, in order and a batch at a time, from where they stopped. Therefore they treat an instance
that has just arrived like one that was pending when the host started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import Ledger, Transaction, instances

BATCH = 1000  # rows read at a time


@frozen(kw_only=True)
class Arrived:
    """A batch of new instances."""

    ae_titles: frozenset[str]  # to which they were sent
    instances: Sequence[InstanceStorageInfo]  # empty unless observers are notified of each instance
    replaced: Sequence[int]  # ids of earlier instances that some of these replace


class Notify:
    """Detects instances that arrived after its own creation. Not thread-safe: used by one thread only."""

    def __init__(self, ledger: Ledger, *, each: bool) -> None:
        """`each`: read every single instance, for observers; this costs as much as a lane does."""
        self._ledger = ledger
        self._each = each
        with ledger.read() as transaction:
            self._seen = instances.last_number(transaction)

    def arrived(self) -> Iterator[Arrived]:
        """Yield the instances that arrived since the last call, a batch at a time, in the order of arrival."""
        while True:
            with self._ledger.read() as transaction:
                last, batch = self._next(transaction)
            read, self._seen = last - self._seen, last
            if read:
                yield batch
            if read < BATCH:  # numbers rise: there were no more; later instances cause another wake-up
                return

    def _next(self, transaction: Transaction) -> tuple[int, Arrived]:
        """Return the number of the last instance of the next batch, and the batch."""
        found: Sequence[InstanceStorageInfo] = []
        if self._each:
            found = instances.arrived_after(transaction, self._seen, BATCH)
            last = max([self._seen, *(instance.instance_id for instance in found)])
            ae_titles = {instance.ae_title for instance in found}
        else:
            newest = instances.newest_after(transaction, self._seen, BATCH)
            last, ae_titles = max([self._seen, *newest.values()]), set(newest)
        replaced = instances.replaced_by(transaction, self._seen + 1, last) if last > self._seen else []
        return last, Arrived(ae_titles=frozenset(ae_titles), instances=found, replaced=replaced)
