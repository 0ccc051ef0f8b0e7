"""Step 3: find out what has arrived, so that lanes take it and observers hear of it.

Lanes read their own rows, in order and a batch at a time, from where they stopped; so whether an instance has just
arrived, or was waiting when the host started, makes no difference to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import Ledger, Transaction, instances

BATCH = 1000  # rows read at a time


@frozen(kw_only=True)
class Arrived:
    """A batch of arrivals."""

    ae_titles: frozenset[str]  # that they were sent to
    instances: Sequence[InstanceStorageInfo]  # when somebody wants to hear of each
    replaced: Sequence[int]  # ids of earlier arrivals that some of these stand for


class Notify:
    """Follows the ledger from the moment it was made. Used by one thread."""

    def __init__(self, ledger: Ledger, *, each: bool) -> None:
        """`each`: somebody wants to hear of every single instance; to read them costs as much as a lane does."""
        self._ledger = ledger
        self._each = each
        with ledger.read() as transaction:
            self._seen = instances.last_number(transaction)

    def arrived(self) -> Iterator[Arrived]:
        """What came since the last call, a batch at a time, in the order of arrival."""
        while True:
            with self._ledger.read() as transaction:
                last, batch = self._next(transaction)
            read, self._seen = last - self._seen, last
            if read:
                yield batch
            if read < BATCH:  # numbers rise: there were no more, and of what comes meanwhile a wake-up tells
                return

    def _next(self, transaction: Transaction) -> tuple[int, Arrived]:
        """The next batch, and the number of its last instance."""
        found: Sequence[InstanceStorageInfo] = []
        if self._each:
            found = instances.arrived_after(transaction, self._seen, BATCH)
            last, ae_titles = max([self._seen, *(one.instance_id for one in found)]), {one.ae_title for one in found}
        else:
            newest = instances.newest_after(transaction, self._seen, BATCH)
            last, ae_titles = max([self._seen, *newest.values()]), set(newest)
        replaced = instances.replaced_by(transaction, self._seen + 1, last) if last > self._seen else []
        return last, Arrived(ae_titles=frozenset(ae_titles), instances=found, replaced=replaced)
