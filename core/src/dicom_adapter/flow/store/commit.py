"""Step 2 (`store`) of the flow: store each data set while it arrives, and make it durable before the answer.

The storage backend is the log of received instances. The C-STORE is answered with success when the instance and its
recovery record, which is a copy of its row, are durable:

    begin    write the header of a Part 10 file to the storage backend
    write    write each piece of the data set as it arrives, and read the identity of the instance from it
    end      complete the data set: return a `ReceivedInstance`, which is not committed yet, or refuse the data set
    commit   make all completed instances durable with one sync, and hand them over to the follower
    recover  at the next start: enter rows that are missing after a crash or power loss, from the recovery records

The follower in the host enters the rows (`flow.enter.follower`). An instance without a recovery record gets its row
before the answer: if the backend keeps no records, or if its record is too long.

After any failure, the sender gets a failure status (PS3.4 section B.2.3) and the instance is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path

import structlog
from attrs import evolve

from dicom_adapter.api.errors import LedgerError, LedgerUnavailable, StorageUnavailable, describe_failure
from dicom_adapter.api.receiving import StoreOutcome, StoreRequest, StoreResult
from dicom_adapter.api.storage import StorageMark
from dicom_adapter.config.model import Config, WrongEncoding
from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.instance_log import InstanceLog
from dicom_adapter.flow.enter.journal import FOLDER
from dicom_adapter.flow.enter.open_commit import OpenCommit, delete_unanswered
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.recovery import Recovery
from dicom_adapter.flow.enter.recovery_records import RecoveryRecords
from dicom_adapter.flow.enter.stored_objects import delete_stored_objects
from dicom_adapter.flow.store.incoming import IncomingInstance, failed
from dicom_adapter.flow.store.limits import StoreLimits
from dicom_adapter.ledger import instances
from dicom_adapter.ledger.health import RECEIVER
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.store")

CHECKPOINT_SECONDS = 1.0  # time between two checkpoints, which make older recovery records unnecessary
ENTRY_SECONDS = 2.0  # longest wait of an instance without a recovery record for the rows of earlier ones
CLOSE_SECONDS = 2.0  # limit of the wait for the last checkpoint when the receiver stops


class Store:
    """Stores instances, and hands them over to the follower.

    One thread calls `begin` and `end`; another thread may call `commit`.
    """

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
        self._find_problem = resources.problem
        self.problem = ""  # why the last commit was refused, if the opened storage or ledger was replaced or is missing
        self._limits = limits
        self._entry = RowEntry(config, resources, name)
        self._recovery_records = RecoveryRecords(self._clock) if self._storage.keeps_recovery_records else None
        self._log: InstanceLog | None = None  # None: rows are entered before the answer
        self._open_commit: OpenCommit | None = None
        self._associations: set[str] = set()  # open associations whose instances were handed over to the follower
        self._last_seconds = 0.0  # duration of the last sync or inline commit
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_at = time.monotonic() + checkpoint_seconds
        self._marked: tuple[int, StorageMark] | None = None  # last record that the mark covers, and the mark

    def open_log(self, folder: Path) -> InstanceLog | None:
        """From now on, hand instances over to a follower, through a journal in this folder. Call this after `recover`.

        Returns None if the storage backend keeps no recovery records: then rows are entered before the answer. Raises
        OSError.
        """
        self._open_commit = OpenCommit(folder, self._name, self._storage.name)
        if self._recovery_records is not None:
            self._log = InstanceLog(folder, self._recovery_records.receiver_run, self._name)
        return self._log

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
        was_entered = self._entry.forget_association(association_id)
        was_handed_over = association_id in self._associations
        self._associations.discard(association_id)
        return was_entered or was_handed_over

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
        """Make the instances durable, and hand them over to the follower. Return the results in the same order.

        Instances without a recovery record get their rows here.
        """
        with self._noted([instance.storage_key for instance in received if not instance.number]):
            return self._commit(received)

    def _noted(self, keys: Sequence[str]) -> AbstractContextManager[None]:
        return nullcontext() if self._open_commit is None else self._open_commit.of(keys)

    def _commit(self, received: Sequence[ReceivedInstance]) -> list[StoreResult]:
        failure = self._sync(received)
        if failure is not None:
            return [failure] * len(received)
        results: list[StoreResult] = []
        for is_logged, group in groupby(received, self._is_logged):
            store = self._hand_over if is_logged else self._enter_now
            results += store(list(group))
        self._checkpoint_if_due()
        return results

    def commit_inline(self, received: Sequence[ReceivedInstance], seconds: float) -> list[StoreResult] | None:
        """Commit a few instances without waiting for anything but their sync. Never call this during another commit.

        Returns None, and commits nothing, if that is impossible, or if the last sync took longer than `seconds`.
        """
        if self._last_seconds > seconds or not all(map(self._is_logged, received)):
            return None
        failure = self._sync(received)
        if failure is not None:
            return [failure] * len(received)
        results = self._hand_over(received)
        self._checkpoint_if_due()
        return results

    def _is_logged(self, instance: ReceivedInstance) -> bool:
        return self._log is not None and instance.number > 0

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
        problem = self._find_problem()
        if problem:
            raise StorageUnavailable(problem)

    def _hand_over(self, received: Sequence[ReceivedInstance]) -> list[StoreResult]:
        """Hand synced instances over to the follower. They are stored, not yet entered."""
        assert self._log is not None  # because these instances are logged
        try:
            self._log.append(received)
        except OSError as failure:
            delete_stored_objects(self._storage, received)
            return [self._failed(failure)] * len(received)
        self._associations.update([instance.association_id for instance in received])
        self.problem = ""
        return [
            StoreResult(outcome=StoreOutcome.STORED, instance=instance.info(), reason=instance.quarantine_reason)
            for instance in received
        ]

    def _enter_now(self, received: Sequence[ReceivedInstance]) -> list[StoreResult]:
        """Enter the rows of synced instances, after the rows of all instances that were handed over before."""
        if self._log is not None and not self._log.wait_until_entered(self._log.last, ENTRY_SECONDS):
            delete_stored_objects(self._storage, received)
            reason = "earlier instances still wait for their rows in the ledger"
            return [StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason=reason)] * len(received)
        return self._enter(received)

    def _enter(self, received: Sequence[ReceivedInstance]) -> list[StoreResult]:
        """Enter the rows, and delete the objects of instances that get no row."""
        try:
            results = self._entry.enter_new(received, synced=True)
        except LedgerUnavailable as failure:  # concerns all instances
            return self._not_entered(received, failure)
        except Exception as failure:  # noqa: BLE001 - a storage backend may raise anything; enter the others separately
            if len(received) == 1:
                return self._not_entered(received, failure)
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

    def _checkpoint_if_due(self) -> None:
        """Confirm what was synced at the last mark, if the follower has confirmed its rows; then set the next mark."""
        if self._log is None or time.monotonic() < self._checkpoint_at:
            return
        self._checkpoint_at = time.monotonic() + self._checkpoint_seconds
        try:
            if self._marked is not None and self._log.progress.confirmed >= self._marked[0]:
                self._marked[1].confirm()
                self._marked = None
            if self._marked is None:
                self._marked = self._log.last, self._storage.mark()
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin; the recovery records are still there
            log.warning("checkpoint_failed", error=describe_failure(failure))

    def recover(self) -> int:
        """Enter the missing rows of stored instances. Return their number. Call this before an instance is received.

        Objects that were never acknowledged, and have no record from which a row could be entered, are deleted. Raises
        OSError and the errors of ledger and storage: nothing may be acknowledged before these rows are entered.
        """
        entered = Recovery(self._entry, self._storage, self._ledger).run()
        delete_unanswered(self._config.storage.path / FOLDER, self._storage, self._ledger)
        return entered

    def end_log(self, wake_host: Callable[[], None]) -> None:
        """End the log. Wait a moment for the last checkpoint, so that the next start has no records to read."""
        if self._log is None:
            return
        self._log.end()
        wake_host()
        if self._log.wait_until_confirmed(CLOSE_SECONDS):
            try:
                self._storage.mark().confirm()
            except Exception as failure:  # noqa: BLE001 - as above
                log.warning("checkpoint_failed", error=describe_failure(failure))

    def close(self) -> None:
        """Close the log. Call this after the last commit."""
        if self._log is not None:
            self._log.close()
        if self._open_commit is not None:
            self._open_commit.close()
