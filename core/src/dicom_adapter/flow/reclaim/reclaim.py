"""Step 7 (`reclaim`) of the flow: delete the stored objects of released instances that no unfinished job needs.

The stored object is deleted before its row is marked. After a crash between these actions, the deletion is repeated,
which storage backends accept. The reverse order could leave an object without a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import structlog

from dicom_adapter.api.errors import LedgerError, describe_failure
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import attachments, events, instances
from dicom_adapter.ledger.events import Event
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.reclaim")

BATCH = 500  # number of instances that are deleted and recorded together


class Reclaim:
    """Deletes stored objects and records the deletions. Not thread-safe: used by one thread only."""

    def __init__(
        self,
        resources: Resources,
        on_reclaimed: Callable[[Sequence[InstanceStorageInfo]], None],
    ) -> None:
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._on_reclaimed = on_reclaimed

    def reclaim_all(self) -> Iterator[int]:
        """Reclaim all released instances, including those whose earlier deletion failed.

        Yield the number of reclaimed instances after each batch; the caller may pause in between. An error of the
        storage backend that concerns a whole batch is raised at the end, so that it does not block the other batches.
        """
        failed: Exception | None = None
        for batch in self._read_released():
            try:
                yield self.reclaim(batch)
            except LedgerError:
                raise
            except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
                failed = failure
        yield from self._reclaim_attachments()
        if failed is not None:
            raise failed

    def reclaim(self, candidates: Sequence[int]) -> int:
        """Reclaim the candidates that may be deleted now. Return their number."""
        with self._ledger.read() as transaction:
            free = instances.reclaimable(transaction, candidates, self._clock.now())
        return sum(self._reclaim_batch(free[start : start + BATCH]) for start in range(0, len(free), BATCH))

    def _reclaim_attachments(self) -> Iterator[int]:
        """Delete the attachments whose jobs were deleted, the object before the row."""
        while True:
            with self._ledger.read() as transaction:
                batch = attachments.without_job(transaction, BATCH)
            if not batch:
                return
            self._storage.delete([attachment.storage_key for attachment in batch])
            with self._ledger.write() as transaction:
                attachments.delete_rows(transaction, [attachment.instance_id for attachment in batch])
            log.info("attachments_deleted", count=len(batch))
            yield len(batch)

    def _reclaim_batch(self, batch: Sequence[InstanceStorageInfo]) -> int:
        deleted = self._delete(batch)
        now = self._clock.now()
        with self._ledger.write() as transaction:
            instances.mark_reclaimed(transaction, [instance.instance_id for instance in deleted], now)
            events.record(transaction, [_reclaimed(instance, now) for instance in deleted])
        log.info("instances_reclaimed", count=len(deleted), bytes=sum(instance.size_bytes for instance in deleted))
        self._on_reclaimed(deleted)
        return len(deleted)

    def _delete(self, batch: Sequence[InstanceStorageInfo]) -> Sequence[InstanceStorageInfo]:
        """Delete the objects together or, if that fails, one by one. Return the instances whose objects were deleted.

        Raises the error of the storage backend if no object could be deleted.
        """
        try:
            self._storage.delete([instance.storage_key for instance in batch])
        except Exception as failure:
            deleted = [instance for instance in batch if self._delete_one(instance)]
            if not deleted:
                raise
            left = [instance.instance_id for instance in batch if instance not in deleted]
            log.error("instances_not_reclaimed", count=len(left), first=left[0], error=describe_failure(failure))
            return deleted
        return batch

    def _delete_one(self, instance: InstanceStorageInfo) -> bool:
        try:
            self._storage.delete([instance.storage_key])
        except Exception:  # noqa: BLE001 - a plugin may raise anything; `_delete` reports it
            return False
        return True

    def _read_released(self) -> Iterator[list[int]]:
        last = 0
        while True:
            with self._ledger.read() as transaction:
                batch = instances.released_after(transaction, last, BATCH, self._clock.now())
            if not batch:
                return
            yield batch
            last = batch[-1]


def _reclaimed(instance: InstanceStorageInfo, now: datetime) -> Event:
    return Event(at=now, event="instance_reclaimed", ae_title=instance.ae_title, instance_id=instance.instance_id)
