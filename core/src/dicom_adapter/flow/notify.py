"""Step 3 (`notify`) of the flow: detect new instances and association reports, wake lanes and notify observers.

A woken lane reads its rows from the ledger in order, beginning after the last row that it has read. Therefore a lane
treats a new instance like an instance that was pending when the host started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import Ledger, Transaction, association_reports, instances

BATCH = 1000  # number of rows that are read together


@frozen(kw_only=True)
class Arrived:
    """A batch of new instances, or new association reports."""

    ae_titles: frozenset[str]  # the called AE titles
    instances: Sequence[InstanceStorageInfo] = ()  # empty unless observers are notified of each instance
    replaced: Sequence[int] = ()  # ids of the earlier instances that new instances replaced


class Notify:
    """Detects instances that arrive after this object was created. Not thread-safe: used by one thread only."""

    def __init__(self, ledger: Ledger, *, each: bool) -> None:
        """Begin after the last instance in the ledger. With `each`, read the row of each instance, for observers."""
        self._ledger = ledger
        self._each = each
        with ledger.read() as transaction:
            self._seen = instances.last_number(transaction)
            self._seen_report = association_reports.last_number(transaction)

    def arrived(self) -> Iterator[Arrived]:
        """Yield the instances that arrived since the last call, in batches, in the order of arrival; then the reports.

        The reports are read before the instances: so all instances that were entered before a report are yielded
        before the report. If the caller stops early, the next call yields the rest.
        """
        with self._ledger.read() as transaction:
            reports = association_reports.newest_after(transaction, self._seen_report)
        yield from self._new_instances()
        if reports:
            self._seen_report = max(reports.values())
            yield Arrived(ae_titles=frozenset(reports))

    def _new_instances(self) -> Iterator[Arrived]:
        while True:
            with self._ledger.read() as transaction:
                last, batch = self._next(transaction)
            count, self._seen = last - self._seen, last
            if count:
                yield batch
            if count < BATCH:  # there are no more rows now; later rows cause another wake-up
                return

    def _next(self, transaction: Transaction) -> tuple[int, Arrived]:
        """Return the number of the last instance of the next batch, and the batch."""
        arrived: Sequence[InstanceStorageInfo] = []
        if self._each:
            arrived = instances.arrived_after(transaction, self._seen, BATCH)
            last = max([self._seen, *(instance.instance_id for instance in arrived)])
            ae_titles = {instance.ae_title for instance in arrived}
        else:
            newest = instances.newest_after(transaction, self._seen, BATCH)
            last, ae_titles = max([self._seen, *newest.values()]), set(newest)
        replaced = instances.replaced_by(transaction, self._seen + 1, last) if last > self._seen else []
        return last, Arrived(ae_titles=frozenset(ae_titles), instances=arrived, replaced=replaced)
