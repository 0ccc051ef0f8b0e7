"""Find the instances that are *stored, not yet entered*, for commands and pages.

Such an instance has no row in the ledger yet. It was acknowledged, or it was stored when its receiver was killed. While
the host runs, its row is entered within milliseconds. Without a host, its row is entered after the next start.

    logged             read the log: the journals, and the recovery records that the storage backend keeps
    without_row        select those that are above the high-water marks of their receiver runs
    measure_backlog    return their number and age, from the journals only, which is fast

The log is read before the ledger. So an instance whose row is entered in between is found in the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.flow.enter.instance_log import LONGEST_WAIT_SECONDS, MOST_WAITING
from dicom_adapter.flow.enter.journal import FOLDER, JournalReader, journals
from dicom_adapter.flow.enter.progress import FollowerProgress, progress_path
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.recovery_records import read_recovery_record
from dicom_adapter.ledger import Ledger, Transaction, receiver_runs, series
from dicom_adapter.ledger.microseconds import to_datetime
from dicom_adapter.ledger.series import ArrivedSeries

LATE_SECONDS = 10.0  # a backlog is a problem for operators if its oldest instance is older than this
TRIES = 3  # maximum number of attempts to read a journal, whose lines the follower may free at the same time


# --- the instances ----------------------------------------------------------------------------------------------------


def logged(data_folder: Path, storage: StorageBackend[Any] | None) -> list[ReceivedInstance]:
    """Return the instances of the log, in the order of arrival. Many of them have rows: see `without_row`.

    Without `storage`, some instances are missing: a power loss has destroyed their journal, or their receiver was
    killed when it had stored them. Raises OSError, and the errors of the storage backend.
    """
    found = {instance.storage_key: instance for instance in _journaled(data_folder)}
    for key, record in storage.kept_records() if storage is not None else ():
        instance = None if key in found else read_recovery_record(record, key)
        if instance is not None:
            found[key] = instance
    return sorted(found.values(), key=lambda instance: (instance.columns["received_at"], instance.number))


def without_row(transaction: Transaction, instances: Sequence[ReceivedInstance]) -> list[ReceivedInstance]:
    """Return the instances that have no row yet. `instances` were read from the log before this transaction began."""
    reached = receiver_runs.high_water_marks(transaction)
    return [instance for instance in instances if instance.number > reached.get(instance.receiver_run, 0)]


def not_entered(data_folder: Path, storage: StorageBackend[Any] | None, ledger: Ledger) -> list[ReceivedInstance]:
    """Return the instances that are stored, not yet entered. Raises as `logged`, and the errors of the ledger."""
    instances = logged(data_folder, storage)
    with ledger.read() as transaction:
        return without_row(transaction, instances)


def series_of(
    transaction: Transaction, studies: Sequence[str], not_entered: Sequence[ReceivedInstance]
) -> list[ArrivedSeries]:
    """Return the series of the studies, also of the instances in `not_entered`, which have no rows."""
    new = (one.series() for one in not_entered if one.study_instance_uid in studies)
    return list(dict.fromkeys([*series.of_studies(transaction, studies), *new]))


@contextmanager
def read_with_log(ledger: Ledger, data_folder: Path) -> Iterator[tuple[Transaction, list[ReceivedInstance]]]:
    """Read the ledger together with the instances that are stored, not yet entered, while the service runs.

    The journals are complete then, and the storage backend is not read. Raises OSError, and the errors of the ledger.
    """
    instances = logged(data_folder, None)
    with ledger.read() as transaction:
        yield transaction, without_row(transaction, instances)


# --- their number -----------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Backlog:
    """Number and age of the instances that are stored, not yet entered."""

    count: int = 0
    oldest_at: datetime | None = None  # UTC; time at which the oldest of them was stored; None if there is none
    is_ledger_full: bool = False  # the host cannot enter their rows, because there is no free space
    failure: str = ""  # why the journals cannot be read; "" if they can

    def age(self, now: datetime) -> float:
        """Return the age of the oldest instance in seconds."""
        return 0.0 if self.oldest_at is None else max(0.0, (now - self.oldest_at).total_seconds())

    def problem(self, now: datetime, *, is_running: bool) -> str:
        """Return why the backlog is a problem; "" if it is not. `is_running`: a host runs, which enters the rows."""
        if self.failure:
            return f"it is unknown how many instances are stored, not yet entered: {self.failure}"
        if not self.count:
            return ""
        are_stored = f"{counted(self.count, 'instance')} {'is' if self.count == 1 else 'are'} stored, not yet entered"
        if not is_running:
            return f"{are_stored} in the ledger: the service enters their rows when it starts"
        if self.refuses(now) or self.age(now) > LATE_SECONDS:
            why = ", because the ledger has no free space" if self.is_ledger_full else ""
            refused = "; receivers refuse more instances until their rows are entered" if self.refuses(now) else ""
            return f"{are_stored} in the ledger{why}, the oldest for {self.age(now):.0f} s{refused}"
        return ""

    def refuses(self, now: datetime) -> bool:
        """Return whether receivers accept no further instances, see `InstanceLog.refusal`."""
        return self.is_ledger_full or self.count >= MOST_WAITING or self.age(now) > LONGEST_WAIT_SECONDS


NO_BACKLOG = Backlog()


def measure_backlog(data_folder: Path, transaction: Transaction) -> Backlog:
    """Return number and age of the instances of the journals that have no row yet."""
    try:
        return _measure(data_folder, transaction)
    except OSError as failure:
        return Backlog(failure=describe_failure(failure))


def _measure(data_folder: Path, transaction: Transaction) -> Backlog:
    reached = receiver_runs.high_water_marks(transaction)
    count, first, is_full = 0, list[int](), False
    for path in journals(data_folder / FOLDER):
        with suppress(FileNotFoundError):  # all its rows were just confirmed
            progress = _progress(path)
            with closing(JournalReader(path, progress.position, is_follower=False)) as reader:
                own, oldest = reader.count_after(reached.get(reader.run, 0))
            if oldest is not None:
                count += own
                first.append(oldest.columns["received_at"])
                is_full = is_full or progress.is_ledger_full
    return Backlog(count=count, oldest_at=to_datetime(min(first)) if first else None, is_ledger_full=is_full)


# --- journals ---------------------------------------------------------------------------------------------------------


def _journaled(data_folder: Path) -> Iterator[ReceivedInstance]:
    """Yield the instances of the unconfirmed lines of all journals."""
    for path in journals(data_folder / FOLDER):
        with suppress(FileNotFoundError):  # all its rows were just confirmed
            yield from _read(path)


def _read(path: Path) -> list[ReceivedInstance]:
    instances: list[ReceivedInstance] = []
    for _try in range(TRIES):
        position = _progress(path).position
        with closing(JournalReader(path, position, is_follower=False)) as reader:
            instances = [instance for _end, instance in reader.read()]
        # If the follower has continued meanwhile, it may have freed the line at which the reading began.
        if instances or _progress(path).position == position:
            break
    return instances


def _progress(journal: Path) -> FollowerProgress:
    try:
        descriptor = os.open(progress_path(journal), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return FollowerProgress()
    try:
        return FollowerProgress.read(descriptor) or FollowerProgress()
    finally:
        os.close(descriptor)
