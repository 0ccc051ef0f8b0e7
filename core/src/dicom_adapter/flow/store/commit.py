"""Step 2: keep the data set as it comes, then write its row; only then may C-STORE answer success.

    begin    the header of a Part 10 file goes to the storage backend
    write    every piece of the data set follows as it comes; held here is what says which instance it is
    end      it is complete: an `Arrival` that waits for its commit, or it is refused
    commit   all that waits becomes durable with one sync, and gets its rows in one transaction
    recover  at the next start: rows that a power loss took are entered again from the recovery records

Whatever fails on the way, the peer gets a failure status (PS3.4 section B.2.3) and nothing is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import structlog
from attrs import evolve
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.receiving import StoreOutcome, StoreRequest, StoreResult
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.config.model import Config
from dicom_adapter.dicom.part10 import BEFORE_META, data_set_offset, file_header
from dicom_adapter.flow.store.arrival import Arrival
from dicom_adapter.flow.store.incoming import Incoming, _failure
from dicom_adapter.flow.store.limits import StoreLimits
from dicom_adapter.flow.store.recovery_records import RecoveryRecords, read_recovery_record
from dicom_adapter.ledger import Ledger, LedgerBusy, Transaction, arrivals, events, instances, receiver_runs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.health import RECEIVER
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.store")

CHECKPOINT_SECONDS = 1.0  # between two syncs of the ledger, after which older recovery records are not needed

INLINE_SYNC_SECONDS = 0.1  # a storage that needs longer for a sync is not synced in the network thread


class Store:
    """`begin` and what comes of it is for one thread, `commit` for another one."""

    def __init__(
        self,
        config: Config,
        storage: StorageBackend[Any],
        ledger: Ledger,
        clock: Clock,
        *,
        name: str = RECEIVER,
        limits: StoreLimits | None = None,
    ) -> None:
        """`name`: of the receiver, which stays the same at its next start. `limits`: None for no checks of limits."""
        self._config = config
        self._storage = storage
        self._ledger = ledger
        self._clock = clock
        self._name = name
        self._limits = limits
        self._recovery_records = RecoveryRecords(clock) if storage.keeps_recovery_records else None
        self._has_unsynced_commits = False
        self._may_checkpoint = True
        self._storage_is_slow = False
        self._checkpoint_at = time.monotonic() + CHECKPOINT_SECONDS

    def configure(self, config: Config) -> None:
        """Go on with another configuration. Associations that are open go on, whatever has become of their AE title."""
        known = {**self._config.ae_titles, **config.ae_titles}
        self._config = evolve(config, ae_titles=known)

    def begin(self, request: StoreRequest) -> Incoming:
        """Receive a request; its data set follows, even if it is refused."""
        if request.sop_class_uid in self._config.ae_titles[request.ae_title].ignored_sop_classes:
            reason = "its SOP class is among ignored-sop-classes"
            return Incoming(request, StoreResult(outcome=StoreOutcome.IGNORED, reason=reason))
        full = self._limits.refusal_before(request.ae_title, self._config.storage) if self._limits else ""
        if full:
            return Incoming(request, StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason=full))
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
            return Incoming(request, _failure(failure))
        limit = self._config.dicom.max_data_set
        incoming = Incoming(request, limit=limit, writer=writer, recovery_records=self._recovery_records)
        incoming.write_header(header)
        return incoming

    def end(self, incoming: Incoming) -> Arrival | StoreResult:
        """Complete the data set: return the instance, which waits for its commit, or why it is not kept."""
        arrival = incoming.end()
        if isinstance(arrival, StoreResult) or self._limits is None:
            return arrival
        full = self._limits.refusal_after(arrival.request.ae_title, self._config.storage)
        if not full:
            return arrival
        incoming.discard()
        return StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason=full)

    def keep(self, request: StoreRequest, data_set: bytes) -> StoreResult:
        """Receive and commit an instance in one call, without a network."""
        incoming = self.begin(request)
        incoming.write([data_set])
        arrival = self.end(incoming)
        return arrival if isinstance(arrival, StoreResult) else self.commit([arrival])[0]

    # --- commit -----------------------------------------------------------------------------------------------------

    def commit(self, waiting: Sequence[Arrival]) -> list[StoreResult]:
        """Make them durable and enter them; returns what each is answered, in their order."""
        failure = self._sync(waiting)
        if failure is not None:
            return [failure] * len(waiting)
        answers = self._enter(waiting)
        self._has_unsynced_commits = self._recovery_records is not None
        if time.monotonic() >= self._checkpoint_at:
            self.checkpoint()
        return answers

    def commit_inline(self, arrival: Arrival) -> StoreResult | None:
        """Commit one instance without waiting for the ledger. Not during another commit.

        Returns None if it would have to wait, for another transaction, a sync of the ledger, or a storage that was slow
        at the last commit: the instance has yet to be committed.
        """
        if not arrival.number or self._storage_is_slow or time.monotonic() >= self._checkpoint_at:
            return None
        failure = self._sync([arrival])
        if failure is not None:
            return failure
        try:
            [answer] = self._enter([arrival], waits=False)
        except LedgerBusy:
            return None
        self._has_unsynced_commits = True
        return answer

    def _sync(self, waiting: Sequence[Arrival]) -> StoreResult | None:
        """Return None when they are durable."""
        began = time.monotonic()
        try:
            self._storage.sync([arrival.storage_key for arrival in waiting])
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            self._delete(waiting)  # not every backend does so by itself
            return _failure(failure)
        finally:
            self._storage_is_slow = time.monotonic() - began > INLINE_SYNC_SECONDS
        return None

    def _enter(self, waiting: Sequence[Arrival], *, waits: bool = True) -> list[StoreResult]:
        """Write the rows; without them the stored objects have never been. Raises LedgerBusy if it is not to wait."""
        try:
            # The row of an instance with a recovery record is durable with that.
            synced = not all(arrival.number for arrival in waiting)
            with self._ledger.write(synced=synced, waits=waits) as transaction:
                answers = self._entered(transaction, waiting)
        except LedgerBusy:
            raise
        except OperationalError as failure:  # the ledger is full, locked or broken, for all of them alike
            return self._not_entered(waiting, failure)
        except Exception as failure:  # noqa: BLE001 - a storage backend may raise anything; nobody fails for another one
            if len(waiting) == 1:
                return self._not_entered(waiting, failure)
            return [answer for arrival in waiting for answer in self._enter([arrival])]
        self._delete([one for one, answer in zip(waiting, answers, strict=True) if answer.instance is None])
        return answers

    def _entered(self, transaction: Transaction, waiting: Sequence[Arrival]) -> list[StoreResult]:
        # Stamped while holding the right to write, so that the order of rows is the order of these times.
        answers = _Entry(self._config, self._storage, transaction, self._clock.now()).enter(waiting)
        runs = {arrival.run for arrival in waiting if arrival.number}
        for run in runs:
            number = max(arrival.number for arrival in waiting if arrival.run == run)
            receiver_runs.reach(transaction, run, self._name, number)
        return answers

    def _not_entered(self, waiting: Sequence[Arrival], failure: Exception) -> list[StoreResult]:
        """After a failed transaction. A row that came about all the same must keep its stored object."""
        try:
            with self._ledger.read() as transaction:
                pending = [
                    instances.find_pending(transaction, one.request.ae_title, one.identity.sop_instance_uid)
                    for one in waiting
                ]
        except SQLAlchemyError as unknown:
            log.warning("stored_objects_left", count=len(waiting), error=type(unknown).__name__)
        else:
            kept = {instance.storage_key for instance in pending if instance is not None}
            self._delete([arrival for arrival in waiting if arrival.storage_key not in kept])
        return [_failure(failure)] * len(waiting)

    def _delete(self, waiting: Sequence[Arrival]) -> None:
        if waiting:
            try:
                self._storage.delete([arrival.storage_key for arrival in waiting])
            except Exception as failure:  # noqa: BLE001 - as above; what is left, an audit finds
                log.warning("stored_objects_left", count=len(waiting), error=type(failure).__name__)

    # --- recovery records -------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Sync the ledger, then drop the recovery records that are not needed any more. Not during a commit."""
        if self._recovery_records is None or not (self._has_unsynced_commits and self._may_checkpoint):
            return
        self._checkpoint_at = time.monotonic() + CHECKPOINT_SECONDS
        try:
            with self._ledger.write() as transaction:
                receiver_runs.checkpoint(transaction, self._recovery_records.run, self._name)
            self._has_unsynced_commits = False
            self._storage.checkpoint()
        except Exception as failure:  # noqa: BLE001 - as above; the recovery records are still there
            # A sync that has failed is not asked again: the kernel may say that all is well, and have dropped it.
            self._may_checkpoint = "disk I/O" not in str(getattr(failure, "orig", ""))  # SQLite's words
            log.warning("checkpoint_failed", error=describe_failure(failure))

    def recover(self) -> int:
        """Enter what is stored and has lost its row, or never had one; returns how many. Before anything is received.

        Raises what the ledger and the storage raise: without its rows, nothing else may be acknowledged.
        """
        with self._storage.unconfirmed_records() as records:
            beyond, lost = (
                self._lost([read_recovery_record(record, key) for key, record in records]) if records else (0, [])
            )
            return self._recover(lost, beyond) if lost else 0

    def _lost(self, arrivals_read: Sequence[Arrival | None]) -> tuple[int, list[Arrival]]:
        """How many are beyond what their runs had reached, and those of them that have no row, in their order."""
        with self._ledger.read() as transaction:
            reached = receiver_runs.reached(transaction)
            beyond = [one for one in arrivals_read if one is not None and one.number > reached.get(one.run, 0)]
            known = instances.among_stored(transaction, [one.storage_key for one in beyond])
        lost = [one for one in beyond if one.storage_key not in known]
        return len(beyond), sorted(lost, key=attrgetter("came_at", "number"))

    def _recover(self, lost: Sequence[Arrival], skipped: int) -> int:
        """Others may remember numbers that the lost rows had: nothing else ever gets one of them."""
        with self._ledger.write() as transaction:
            instances.skip_numbers(transaction, 2 * skipped)  # one that replaces another takes two
        try:
            return self._enter_lost(lost)
        except OperationalError:
            raise
        except Exception:  # noqa: BLE001 - as above; nobody fails for another one
            return sum(map(self._enter_alone, lost))

    def _enter_alone(self, one: Arrival) -> int:
        try:
            return self._enter_lost([one])
        except OperationalError:
            raise
        except Exception as failure:  # noqa: BLE001 - as above; its object stays, and an audit finds it
            log.error("instance_not_recovered", ae_title=one.request.ae_title, error=describe_failure(failure))
            return 0

    def _enter_lost(self, lost: Sequence[Arrival]) -> int:
        now = self._clock.now()
        with self._ledger.write() as transaction:
            answers = self._entered(transaction, lost)
            entered = [answer.instance for answer in answers if answer.instance is not None]
            events.record(transaction, [_recovered(instance, now) for instance in entered])
        # What is like no pending one was acknowledged by another configuration: an audit finds it, and it is not lost.
        repeated = [answer.instance is None and answer.outcome.is_acknowledged for answer in answers]
        self._delete([one for one, is_repeated in zip(lost, repeated, strict=True) if is_repeated])
        for instance in entered:
            log.warning(
                "instance_recovered",
                ae_title=instance.ae_title,
                association_id=instance.association_id,
                sop_instance_uid=instance.sop_instance_uid,
                instance_id=instance.instance_id,
            )
        return len(entered)


def _recovered(instance: InstanceStorageInfo, now: datetime) -> Event:
    return Event(
        at=now,
        event="instance_recovered",
        ae_title=instance.ae_title,
        association_id=instance.association_id,
        instance_id=instance.instance_id,
        detail={"reason": "a process or the power had failed before the ledger was written to the disk"},
    )


class _Entry:
    """The rows of one transaction."""

    def __init__(self, config: Config, storage: StorageBackend[Any], transaction: Transaction, now: datetime) -> None:
        self._config = config
        self._storage = storage
        self._transaction = transaction
        self._now = now

    def enter(self, all_of_them: Sequence[Arrival]) -> list[StoreResult]:
        """Enter them in their order."""
        now, moment = self._now, arrivals.moment(self._now)
        rows = [one.row(arrivals.moment(one.came_at) if one.came_at else moment) for one in all_of_them]
        numbers = arrivals.enter(self._transaction, rows, moment)
        return [
            self._again(one)
            if number is None
            else StoreResult(outcome=StoreOutcome.STORED, instance=one.at(one.came_at or now, number))
            for one, number in zip(all_of_them, numbers, strict=True)
        ]

    def _again(self, arrival: Arrival) -> StoreResult:
        """An instance with the same SOP Instance UID is pending."""
        instance = arrival.at(arrival.came_at or self._now)
        pending = instances.find_pending(self._transaction, instance.ae_title, instance.sop_instance_uid)
        assert pending is not None  # it was when this one was not entered, in this transaction
        if self._overwrites(arrival) and arrival.came_at is not None and arrival.came_at < pending.received_at:
            return StoreResult(
                outcome=StoreOutcome.SUPERSEDED, reason="a newer arrival is pending", duplicate_of=pending.instance_id
            )
        if self._overwrites(arrival):
            return StoreResult(
                outcome=StoreOutcome.STORED, instance=instances.replace(self._transaction, pending, instance)
            )
        if self._is_same(pending, instance):
            return StoreResult(
                outcome=StoreOutcome.ALREADY_STORED,
                reason="the same data set is pending already",
                duplicate_of=pending.instance_id,
            )
        reason = (
            "another data set with this SOP Instance UID is pending; overwrite-same-instance = false keeps that one"
        )
        return StoreResult(outcome=StoreOutcome.DUPLICATE_REFUSED, reason=reason, duplicate_of=pending.instance_id)

    def _overwrites(self, arrival: Arrival) -> bool:
        table = self._config.ae_titles.get(arrival.request.ae_title)  # None: no longer configured
        return table is not None and table.overwrite_same_instance

    def _is_same(self, one: InstanceStorageInfo, other: InstanceStorageInfo) -> bool:
        """Whether they are one data set, whoever sent them."""
        if (one.checksum, one.transfer_syntax_uid) != (other.checksum, other.transfer_syntax_uid):
            return False
        return self._data_set_bytes(one) == self._data_set_bytes(other)

    def _data_set_bytes(self, instance: InstanceStorageInfo) -> int:
        # The header names sender and receiver, and earlier versions wrote a shorter one. That the object is there at
        # all counts as well: on the strength of a lost one nothing may be acknowledged.
        with self._storage.read(instance.storage_key) as file:
            return instance.size_bytes - data_set_offset(file.read(BEFORE_META))
