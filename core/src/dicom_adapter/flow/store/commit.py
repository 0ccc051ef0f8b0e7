"""Step 2: store each data set while it arrives, then enter its row; only then may C-STORE answer success.

    begin    the header of a Part 10 file is written to the storage backend
    write    every piece of the data set follows as it arrives; the identity of the instance is read from it
    end      the data set is complete: a `ReceivedInstance` that waits for its commit, or it is refused
    commit   all instances that wait become durable with one sync, and get their rows in one transaction
    recover  at the next start: rows that a power loss took are entered again from the recovery records

After any failure, the sender gets a failure status (PS3.4 section B.2.3) and the instance is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog
from attrs import evolve

from dicom_adapter.api.errors import LedgerError, LedgerUnavailable, describe_failure
from dicom_adapter.api.receiving import StoreOutcome, StoreRequest, StoreResult
from dicom_adapter.config.model import Config
from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.flow.store.incoming import IncomingInstance, failed
from dicom_adapter.flow.store.limits import StoreLimits
from dicom_adapter.flow.store.received_instance import ReceivedInstance
from dicom_adapter.flow.store.recovery import Recovery
from dicom_adapter.flow.store.recovery_records import RecoveryRecords
from dicom_adapter.flow.store.rows import RowWriter
from dicom_adapter.flow.store.stored_objects import delete_stored_objects
from dicom_adapter.ledger import instances, receiver_runs
from dicom_adapter.ledger.health import RECEIVER
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.store")

CHECKPOINT_SECONDS = 1.0  # between two syncs of the ledger, after which older recovery records are not needed
INLINE_SYNC_SECONDS = 0.1  # a storage backend that needs longer for a sync is not synced in the network thread


class Store:
    """Receives instances and enters them. `begin` and `end` are for one thread, `commit` for another one."""

    def __init__(
        self,
        config: Config,
        resources: Resources,
        *,
        name: str = RECEIVER,
        limits: StoreLimits | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        inline_sync_seconds: float = INLINE_SYNC_SECONDS,
    ) -> None:
        """`name`: of the receiver, which stays the same at its next start. `limits`: None for no checks of limits."""
        self._config = config
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._name = name
        self._limits = limits
        self._checkpoint_seconds = checkpoint_seconds
        self._inline_sync_seconds = inline_sync_seconds
        self._recovery_records = RecoveryRecords(self._clock) if self._storage.keeps_recovery_records else None
        self._has_unsynced_commits = False
        self._may_checkpoint = True
        self._storage_is_slow = False
        self._checkpoint_at = time.monotonic() + checkpoint_seconds

    def configure(self, config: Config) -> None:
        """Apply another configuration. Open associations to AE titles that it removes stay usable."""
        known = {**self._config.ae_titles, **config.ae_titles}
        self._config = evolve(config, ae_titles=known)

    def begin(self, request: StoreRequest) -> IncomingInstance:
        """Receive a request; its data set follows, even if it is refused."""
        if request.sop_class_uid in self._config.ae_titles[request.ae_title].ignored_sop_classes:
            reason = "its SOP class is among ignored-sop-classes"
            return IncomingInstance(request, StoreResult(outcome=StoreOutcome.IGNORED, reason=reason))
        full = self._limits.refusal_before(request.ae_title, self._config.storage) if self._limits else ""
        if full:
            return IncomingInstance(request, StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason=full))
        header = file_header(
            request.sop_class_uid,
            request.sop_instance_uid,
            request.transfer_syntax_uid,
            request.calling_ae_title,
            request.ae_title,
        )
        try:
            writer = self._storage.writer()
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            return IncomingInstance(request, failed(failure))
        limit = self._config.dicom.max_data_set
        incoming = IncomingInstance(request, limit=limit, writer=writer, recovery_records=self._recovery_records)
        incoming.write_header(header)
        return incoming

    def end(self, incoming: IncomingInstance) -> ReceivedInstance | StoreResult:
        """Complete the data set: return the instance, which waits for its commit, or why it is not stored."""
        received = incoming.end()
        if isinstance(received, StoreResult) or self._limits is None:
            return received
        full = self._limits.refusal_after(received.ae_title, self._config.storage)
        if not full:
            return received
        incoming.discard()
        return StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason=full)

    def keep(self, request: StoreRequest, data_set: bytes) -> StoreResult:
        """Receive and commit an instance in one call, without a network."""
        incoming = self.begin(request)
        incoming.write([data_set])
        received = self.end(incoming)
        return received if isinstance(received, StoreResult) else self.commit([received])[0]

    # --- commit -----------------------------------------------------------------------------------------------------

    def commit(self, received: Sequence[ReceivedInstance]) -> list[StoreResult]:
        """Make the instances durable and enter their rows; return the results in their order."""
        failure = self._sync(received)
        if failure is not None:
            return [failure] * len(received)
        results = self._enter(received)
        self._has_unsynced_commits = self._recovery_records is not None
        if time.monotonic() >= self._checkpoint_at:
            self.checkpoint()
        return results

    def commit_inline(self, received: ReceivedInstance) -> StoreResult | None:
        """Commit one instance without waiting for the ledger. Not during another commit.

        Returns None if it would have to wait, for another transaction, a sync of the ledger, or a storage that was slow
        at the last commit: the instance has yet to be committed.
        """
        if not received.number or self._storage_is_slow or time.monotonic() >= self._checkpoint_at:
            return None
        failure = self._sync([received])
        if failure is not None:
            return failure
        try:
            [result] = self._enter([received], waits=False)
        except LedgerUnavailable:
            return None
        self._has_unsynced_commits = True
        return result

    def _sync(self, received: Sequence[ReceivedInstance]) -> StoreResult | None:
        """Make the objects durable; return the result for all of them if that fails."""
        began = time.monotonic()
        try:
            self._storage.sync([one.storage_key for one in received])
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            delete_stored_objects(self._storage, received)  # not every backend deletes them itself
            return failed(failure)
        finally:
            self._storage_is_slow = time.monotonic() - began > self._inline_sync_seconds
        return None

    def _enter(self, received: Sequence[ReceivedInstance], *, waits: bool = True) -> list[StoreResult]:
        """Enter the rows; delete the objects of instances without one. Raises for a busy ledger if not `waits`."""
        try:
            # The row of an instance with a recovery record is durable with that.
            synced = not all(one.number for one in received)
            with self._ledger.write(synced=synced, waits=waits) as transaction:
                # The time is read in the transaction, so that the order of rows is the order of these times.
                now = self._clock.now()
                results = RowWriter(self._config, self._storage, transaction, self._name).enter(received, now)
        except LedgerUnavailable as failure:  # for all of them alike
            if failure.is_busy and not waits:
                raise
            return self._not_entered(received, failure)
        except Exception as failure:  # noqa: BLE001 - a storage backend may raise anything; enter the others separately
            if len(received) == 1:
                return self._not_entered(received, failure)
            return [result for one in received for result in self._enter([one])]
        without_row = [one for one, result in zip(received, results, strict=True) if result.instance is None]
        delete_stored_objects(self._storage, without_row)
        return results

    def _not_entered(self, received: Sequence[ReceivedInstance], failure: Exception) -> list[StoreResult]:
        """Delete the objects after a failed transaction, but not those whose rows were written all the same."""
        try:
            with self._ledger.read() as transaction:
                pending = [instances.find_pending(transaction, one.ae_title, one.sop_instance_uid) for one in received]
        except LedgerError as unknown:
            log.warning("stored_object_deletion_failed", count=len(received), error=type(unknown).__name__)
        else:
            entered = {instance.storage_key for instance in pending if instance is not None}
            delete_stored_objects(self._storage, [one for one in received if one.storage_key not in entered])
        return [failed(failure)] * len(received)

    # --- recovery records -------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Sync the ledger, then drop the recovery records that are not needed any more. Not during a commit."""
        if self._recovery_records is None or not (self._has_unsynced_commits and self._may_checkpoint):
            return
        self._checkpoint_at = time.monotonic() + self._checkpoint_seconds
        try:
            with self._ledger.write() as transaction:
                receiver_runs.checkpoint(transaction, self._recovery_records.receiver_run, self._name)
            self._has_unsynced_commits = False
            self._storage.checkpoint()
        except Exception as failure:  # noqa: BLE001 - as above; the recovery records are still there
            # After a failed sync there is no other one: the kernel may report success, and have dropped the data.
            self._may_checkpoint = not (isinstance(failure, LedgerUnavailable) and failure.is_io_error)
            log.warning("checkpoint_failed", error=describe_failure(failure))

    def recover(self) -> int:
        """Enter rows that are missing for stored instances, and return how many. Before anything is received.

        Raises what ledger and storage raise: nothing may be acknowledged before these rows are entered.
        """
        return Recovery(self._config, self._storage, self._ledger, self._clock, self._name).run()
