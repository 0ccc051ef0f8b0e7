"""Step 2 (`store`) of the flow: store each data set while it arrives, then enter its row in the ledger.

The C-STORE is answered with success only after the row was entered:

    begin    write the header of a Part 10 file to the storage backend
    write    write each piece of the data set as it arrives, and read the identity of the instance from it
    end      complete the data set: return a `ReceivedInstance`, which is not committed yet, or refuse the data set
    commit   make all completed instances durable with one sync, and enter their rows in one transaction
    recover  at the next start: enter rows that were lost in a power loss again, from the recovery records

After any failure, the sender gets a failure status (PS3.4 section B.2.3) and the instance is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog
from attrs import evolve

from dicom_adapter.api.errors import LedgerError, LedgerUnavailable, StorageUnavailable, describe_failure
from dicom_adapter.api.receiving import StoreOutcome, StoreRequest, StoreResult
from dicom_adapter.config.model import Config, WrongEncoding
from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.recovery import Recovery
from dicom_adapter.flow.enter.recovery_records import RecoveryRecords
from dicom_adapter.flow.enter.stored_objects import delete_stored_objects
from dicom_adapter.flow.store.incoming import IncomingInstance, failed
from dicom_adapter.flow.store.limits import StoreLimits
from dicom_adapter.ledger import instances, receiver_runs
from dicom_adapter.ledger.health import RECEIVER
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.store")

CHECKPOINT_SECONDS = 1.0  # time between two syncs of the ledger, which make older recovery records unnecessary


class Store:
    """Stores instances and enters their rows. One thread calls `begin` and `end`; another thread may call `commit`."""

    def __init__(
        self,
        config: Config,
        resources: Resources,
        *,
        name: str = RECEIVER,
        limits: StoreLimits | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """Store for the receiver `name`, which is the same after a restart. Without `limits`, no limits are checked."""
        self._config = config
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._name = name
        self._storage_problem, self._find_problem = resources.storage_problem, resources.problem
        self.problem = ""  # why the last commit was refused, if the opened storage or ledger was replaced or is missing
        self._limits = limits
        self._entry = RowEntry(config, resources, name)
        self._checkpoint_seconds = checkpoint_seconds
        self._recovery_records = RecoveryRecords(self._clock) if self._storage.keeps_recovery_records else None
        self._has_unsynced_commits = False
        self._may_checkpoint = True
        self._last_seconds = 0.0  # duration of the last sync or inline commit
        self._checkpoint_at = time.monotonic() + checkpoint_seconds

    def configure(self, config: Config) -> None:
        """Apply another configuration. Open associations with removed AE titles can still store instances."""
        ae_titles = {**self._config.ae_titles, **config.ae_titles}
        self._config = evolve(config, ae_titles=ae_titles)
        self._entry.configure(self._config)

    def begin(self, request: StoreRequest) -> IncomingInstance:
        """Begin to store an instance. Its data set follows in any case, even if the request is refused."""
        table = self._config.ae_titles[request.ae_title]
        if request.sop_class_uid in table.ignored_sop_classes:
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
            return IncomingInstance(request, self._failed(failure))
        incoming = IncomingInstance(
            request,
            limit=self._config.dicom.max_data_set,
            writer=writer,
            recovery_records=self._recovery_records,
            accepts_any_encoding=table.wrong_encoding is WrongEncoding.QUARANTINE,
            keeps_descriptions=self._config.ledger.keep_descriptions,
        )
        incoming.write_header(header)
        return incoming

    def end(self, incoming: IncomingInstance) -> ReceivedInstance | StoreResult:
        """Complete the data set. Return the instance for `commit`, or the result if the data set is refused."""
        received = incoming.end()
        if isinstance(received, StoreResult) and received.outcome is StoreOutcome.FAILED:
            return self._explained(received)
        if isinstance(received, StoreResult) or self._limits is None:
            return received
        full = self._limits.refusal_after(received.ae_title, self._config.storage)
        if not full:
            return received
        incoming.discard()
        return StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason=full)

    def forget_association(self, association_id: str) -> bool:
        """Forget an association that has ended. Return whether an instance of it was stored. Thread-safe."""
        return self._entry.forget_association(association_id)

    def keep(self, request: StoreRequest, data_set: bytes) -> StoreResult:
        """Store and commit an instance in one call, without a network."""
        incoming = self.begin(request)
        incoming.write([data_set])
        received = self.end(incoming)
        return received if isinstance(received, StoreResult) else self.commit([received])[0]

    def check_problem(self) -> None:
        """Forget `problem` if storage and ledger are back, without waiting for the next commit."""
        if not self.problem:
            return
        try:
            problem = self._find_problem()
            if not problem:
                self._storage.sync([])
        except StorageUnavailable as failure:
            problem = str(failure)
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            problem = f"the storage failed: {describe_failure(failure)}"
        self.problem = problem

    # --- commit -----------------------------------------------------------------------------------------------------

    def commit(self, received: Sequence[ReceivedInstance]) -> list[StoreResult]:
        """Make the instances durable and enter their rows. Return the results in the same order."""
        failure = self._sync(received)
        if failure is not None:
            return [failure] * len(received)
        results = self._enter(received)
        self._has_unsynced_commits = self._recovery_records is not None
        # If no row was entered, the ledger may be locked: a checkpoint would wait for it again.
        has_rows = any(result.outcome.is_acknowledged for result in results)
        if has_rows and time.monotonic() >= self._checkpoint_at:
            self.checkpoint()
        return results

    def commit_inline(self, received: Sequence[ReceivedInstance], seconds: float) -> list[StoreResult] | None:
        """Commit a few instances if that is possible without waiting. Must not be called during another commit.

        Returns None, and commits nothing, if the commit would wait for another transaction or for a sync of the ledger,
        or if the last sync or inline commit took longer than `seconds`.
        """
        started = time.monotonic()
        is_due = started >= self._checkpoint_at
        if is_due or self._last_seconds > seconds or not all(instance.number for instance in received):
            return None
        failure = self._sync(received)
        if failure is not None:
            return [failure] * len(received)
        try:
            results = self._enter(received, waits=False)
        except Exception:  # noqa: BLE001 - the commit thread repeats the commit, waits if necessary, and handles errors
            return None
        self._has_unsynced_commits = True
        self._last_seconds = time.monotonic() - started
        return results

    def _sync(self, received: Sequence[ReceivedInstance]) -> StoreResult | None:
        """Make the objects durable. If that fails, return the result for all instances."""
        started = time.monotonic()
        try:
            self._storage.sync([instance.storage_key for instance in received])
            self._require_storage()
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            delete_stored_objects(self._storage, received)  # the backend may have kept some objects
            return self._failed(failure)
        finally:
            self._last_seconds = time.monotonic() - started
        return None

    def _require_storage(self) -> None:
        problem = self._storage_problem()
        if problem:
            raise StorageUnavailable(problem)

    def _enter(self, received: Sequence[ReceivedInstance], *, waits: bool = True) -> list[StoreResult]:
        """Enter the rows, and delete the objects of instances that get no row.

        If not `waits`, raises LedgerUnavailable instead of waiting for another transaction, and any error instead of
        entering several instances one after the other.
        """
        try:
            # A row needs no sync if its instance has a recovery record: it can be entered again from the record.
            synced = not all(instance.number for instance in received)
            results = self._entry.enter_new(received, synced=synced, waits=waits)
        except LedgerUnavailable as failure:  # concerns all instances
            if failure.is_busy and not waits:
                raise
            return self._not_entered(received, failure)
        except Exception as failure:  # a storage backend may raise anything; enter the others separately
            if len(received) == 1:
                return self._not_entered(received, failure)
            if not waits:
                raise
            return [result for instance in received for result in self._enter([instance])]
        without_row = [instance for instance, result in zip(received, results, strict=True) if result.instance is None]
        delete_stored_objects(self._storage, without_row)
        self.problem = ""
        return results

    def _not_entered(self, received: Sequence[ReceivedInstance], failure: Exception) -> list[StoreResult]:
        """Delete the objects after a failed transaction, except objects whose rows were committed nevertheless."""
        try:
            with self._ledger.read() as transaction:
                pending = [
                    instances.find_pending(transaction, instance.ae_title, instance.sop_instance_uid)
                    for instance in received
                ]
        except LedgerError as error:
            log.warning("stored_object_deletion_failed", count=len(received), error=type(error).__name__)
        else:
            entered = {row.storage_key for row in pending if row is not None}
            delete_stored_objects(
                self._storage, [instance for instance in received if instance.storage_key not in entered]
            )
        return [self._failed(failure)] * len(received)

    def _failed(self, failure: Exception) -> StoreResult:
        return self._explained(failed(failure), str(failure) if isinstance(failure, StorageUnavailable) else "")

    def _explained(self, result: StoreResult, problem: str = "") -> StoreResult:
        """Return OUT_OF_SPACE, so that the sender retries, if storage or ledger were replaced or are missing."""
        self.problem = problem or self._find_problem()
        if not self.problem:
            return result
        return StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason=self.problem)

    # --- recovery records -------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Sync the ledger, then confirm that the rows of all synced instances are durable. Not during a commit."""
        if self._recovery_records is None or not (self._has_unsynced_commits and self._may_checkpoint):
            return
        self._checkpoint_at = time.monotonic() + self._checkpoint_seconds
        try:
            mark = self._storage.mark()
            with self._ledger.write() as transaction:
                receiver_runs.checkpoint(transaction, self._recovery_records.receiver_run, self._name)
            self._has_unsynced_commits = False
            mark.confirm()
        except Exception as failure:  # noqa: BLE001 - as above; the recovery records are still there
            # A failed sync is not repeated: the kernel may drop the data and then report success (fsync(2)).
            self._may_checkpoint = not (isinstance(failure, LedgerUnavailable) and failure.is_io_error)
            log.warning("checkpoint_failed", error=describe_failure(failure))

    def recover(self) -> int:
        """Enter the missing rows of stored instances. Return their number. Call this before an instance is received.

        Raises the errors of ledger and storage: nothing may be acknowledged before these rows are entered.
        """
        return Recovery(self._entry, self._storage, self._ledger).run()
