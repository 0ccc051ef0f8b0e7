"""Step 6: give back the room of what no processor holds and no unfinished job needs.

First the stored object goes, then the row says so. A crash in between repeats a deletion that is already done, which
storage backends take calmly; the other way round it would leave a file that nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import structlog

from dicom_adapter.clock import Clock
from dicom_adapter.ledger import Ledger, events, instances
from dicom_adapter.ledger.events import Event
from dicom_adapter.model import InstanceStorageInfo
from dicom_adapter.storage import StorageBackend

log = structlog.get_logger("dicom_adapter.reclaim")

BATCH = 500  # instances deleted and written down together


class Reclaim:
    """Used by one thread."""

    def __init__(
        self,
        ledger: Ledger,
        storage: StorageBackend[Any],
        clock: Clock,
        on_reclaimed: Callable[[Sequence[InstanceStorageInfo]], None],
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._on_reclaimed = on_reclaimed

    def everything(self) -> int:
        """Look at all that is released: once after a start, for what an earlier one left. Returns how many went."""
        return sum(self.reclaim(batch) for batch in self._released())

    def reclaim(self, candidates: Sequence[int]) -> int:
        """Of these instances, reclaim those that may go now; returns how many."""
        with self._ledger.read() as transaction:
            free = instances.reclaimable(transaction, candidates)
        for start in range(0, len(free), BATCH):
            self._give_back(free[start : start + BATCH])
        return len(free)

    def _give_back(self, batch: Sequence[InstanceStorageInfo]) -> None:
        self._storage.delete([instance.storage_key for instance in batch])
        now = self._clock.now()
        with self._ledger.write() as transaction:
            instances.mark_reclaimed(transaction, [instance.instance_id for instance in batch], now)
            events.record(transaction, [_reclaimed(instance, now) for instance in batch])
        log.info("instances_reclaimed", count=len(batch), bytes=sum(instance.size_bytes for instance in batch))
        self._on_reclaimed(batch)

    def _released(self) -> Iterator[list[int]]:
        last = 0
        while True:
            with self._ledger.read() as transaction:
                batch = instances.released_after(transaction, last, BATCH)
            if not batch:
                return
            yield batch
            last = batch[-1]


def _reclaimed(instance: InstanceStorageInfo, now: datetime) -> Event:
    return Event(at=now, event="instance_reclaimed", ae_title=instance.ae_title, instance_id=instance.instance_id)
