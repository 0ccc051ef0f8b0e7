"""Step 6: give back the room of what no processor holds and no unfinished job needs.

First the stored object goes, then the row says so. A crash in between repeats a deletion that is already done, which
storage backends take calmly; the other way round it would leave a file that nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import structlog

from dicom_adapter.api.errors import LedgerError, describe_failure
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import events, instances
from dicom_adapter.ledger.events import Event
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.reclaim")

BATCH = 500  # instances deleted and written down together


class Reclaim:
    """Used by one thread."""

    def __init__(
        self,
        resources: Resources,
        on_reclaimed: Callable[[Sequence[InstanceStorageInfo]], None],
    ) -> None:
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._on_reclaimed = on_reclaimed

    def everything(self) -> Iterator[int]:
        """Look at all that is released: once after a start, for what an earlier one left.

        Yields after every batch, which the caller may take its time between, how many went. What the storage backend
        raised for a whole batch is raised at the end: it must not keep the others.
        """
        failed: Exception | None = None
        for batch in self._released():
            try:
                yield self.reclaim(batch)
            except LedgerError:
                raise
            except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
                failed = failure
        if failed is not None:
            raise failed

    def reclaim(self, candidates: Sequence[int]) -> int:
        """Of these instances, reclaim those that may go now; returns how many."""
        with self._ledger.read() as transaction:
            free = instances.reclaimable(transaction, candidates)
        return sum(self._give_back(free[start : start + BATCH]) for start in range(0, len(free), BATCH))

    def _give_back(self, batch: Sequence[InstanceStorageInfo]) -> int:
        gone = self._delete(batch)
        now = self._clock.now()
        with self._ledger.write() as transaction:
            instances.mark_reclaimed(transaction, [instance.instance_id for instance in gone], now)
            events.record(transaction, [_reclaimed(instance, now) for instance in gone])
        log.info("instances_reclaimed", count=len(gone), bytes=sum(instance.size_bytes for instance in gone))
        self._on_reclaimed(gone)
        return len(gone)

    def _delete(self, batch: Sequence[InstanceStorageInfo]) -> Sequence[InstanceStorageInfo]:
        """Delete the objects, together or, when that fails, one by one; returns those that are gone.

        Raises what the storage backend raised when it can delete none of them.
        """
        try:
            self._storage.delete([instance.storage_key for instance in batch])
        except Exception as failure:
            gone = [instance for instance in batch if self._delete_one(instance)]
            if not gone:
                raise
            left = [instance.instance_id for instance in batch if instance not in gone]
            log.error("instances_not_reclaimed", count=len(left), first=left[0], error=describe_failure(failure))
            return gone
        return batch

    def _delete_one(self, instance: InstanceStorageInfo) -> bool:
        try:
            self._storage.delete([instance.storage_key])
        except Exception:  # noqa: BLE001 - a plugin may raise anything; `_delete` reports it
            return False
        return True

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
