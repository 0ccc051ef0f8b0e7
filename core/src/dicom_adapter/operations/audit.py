"""Compare the ledger with the storage backend, and the ledger with itself, to account for every received instance.

The service may run during an audit. The service stores an object before it inserts the row, and deletes the object
before it updates the row. Therefore the audit lists the storage keys first, then reads the rows and compares each row
with its object. The audit checks every mismatch again after a pause, because the service completes open transactions in
the meantime. An object whose instance is *stored, not yet entered* (`operations.not_entered`) is no mismatch.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from enum import Enum

from attrs import Factory, define, frozen

from dicom_adapter.api.errors import StoredObjectMissing
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.verified_reader import StoredObjectChanged, VerifiedReader
from dicom_adapter.ledger import attachments, balance, instances, job_attachments
from dicom_adapter.ledger.attachments import Attachment
from dicom_adapter.ledger.balance import Account, ObjectRow
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.runtime.resources import Resources

BATCH = 1000  # number of rows that are read together
PIECE_BYTES = 1 << 20  # number of bytes that are read together to verify an object
PAUSES_S = (0.5, 1, 2, 4)  # pauses between checks of the mismatches, while the service runs
RECLAIM_TIME = timedelta(minutes=5)  # time limit for a reclaim after a release: the host reclaims every minute
LISTED = 10_000  # number of findings of a kind that are listed, and repaired by one run; more are only counted


class Kind(str, Enum):
    """The kinds of findings, as `audit --json` names them."""

    ORPHAN = "object-without-row"  # a stored object that belongs to no instance
    MISSING = "object-missing"  # an instance without its stored object
    CHANGED = "object-changed"  # a stored object with another size or checksum than the ledger
    UNREADABLE = "object-unreadable"  # a stored object that cannot be read
    NOT_DELETED = "object-not-deleted"  # a reclaimed instance whose stored object still exists
    UNFINISHED = "reclaim-unfinished"  # a released instance without object that is not marked as reclaimed
    OVERDUE = "not-reclaimed"  # a released instance that was not reclaimed in time
    INCOMPLETE = "job-incomplete"  # a job that does not have all its instances
    WITHOUT_DATA = "job-without-data"  # a job that needs a reclaimed instance
    REPLACEMENT_MISSING = "replacement-missing"  # an instance that was replaced by an unknown instance
    BALANCE = "balance"  # an AE title whose received instances are not all accounted for
    DISPLACED = "files-replaced"  # files of a running service that are not in its data folder any more


@frozen(kw_only=True)
class Finding:
    """One inconsistency of ledger and storage."""

    kind: Kind
    text: str  # a sentence, without patient data
    ae_title: str = ""  # "" if unknown
    instance_id: int | None = None
    job_id: str | None = None
    storage_key: str | None = None


@define
class FindingList:
    """The findings of one kind."""

    count: int = 0  # number of all findings
    listed: list[Finding] = Factory(list)  # the first findings, LISTED at most

    def add(self, finding: Finding) -> None:
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append(finding)


@frozen(kw_only=True)
class AuditReport:
    """The result of an audit."""

    balance: Sequence[Account]
    results: Sequence[Account]  # accounts of results
    found: dict[Kind, FindingList]  # only kinds with at least one finding
    not_entered: Mapping[str, int]  # number of instances that are stored, not yet entered, by AE title
    running: bool  # True if the service was running: unfinished stores and reclaims may be among the findings

    @property
    def count(self) -> int:
        return sum(found.count for found in self.found.values())


# Arguments: step, number of done items, number of all items (None: unknown)
ProgressCallback = Callable[[str, int, "int | None"], None]


class Audit:
    """One audit. Not thread-safe: create a new object for each audit."""

    def __init__(
        self,
        resources: Resources,
        *,
        is_running: Callable[[], bool],
        displaced: Callable[[], str] = lambda: "",
        find_not_entered: Callable[[], Sequence[ReceivedInstance]] = lambda: (),
        verify: bool = False,
        pause: Callable[[float], None] = time.sleep,
        on_progress: ProgressCallback = lambda _step, _done, _total: None,
    ) -> None:
        """Create an audit.

        `is_running` returns whether another process may change ledger or storage. `displaced` returns why a running
        service uses other files than the audit; "" if it uses the same files. `find_not_entered` returns the instances
        that are stored, not yet entered. With `verify`, the object of every instance that is not reclaimed is read and
        compared with its checksum; attachments are not. `on_progress` is called after every batch.
        """
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._is_running = is_running
        self._displaced = displaced
        self._find_not_entered = find_not_entered
        self._not_entered: dict[str, str] = {}  # AE titles of the instances that are not entered, by storage key
        self._verify = verify
        self._pause = pause
        self._on_progress = on_progress
        self._found: dict[Kind, FindingList] = {}
        self._last_id = 0  # id of the newest row that was read

    def run(self) -> AuditReport:
        """Run the audit. Raises errors of the ledger, and errors of the storage backend while it lists its keys."""
        running = self._is_running()
        orphans = self._list_keys()
        suspects = self._compare(orphans)
        overdue = self._find_overdue() if running else set()
        pauses: Iterator[float] = iter(PAUSES_S)
        while True:
            suspects = [row.instance_id for row in self._reload(suspects) if self._mismatch(row) is not None]
            orphans = self._confirm_orphans(orphans)
            overdue &= self._find_overdue() if overdue else set()
            running = running or self._is_running()
            wait = next(pauses, None) if running and (suspects or orphans or overdue) else None
            if wait is None:
                break
            self._pause(wait)
        self._report_objects(suspects, orphans)
        with self._ledger.read() as transaction:
            accounts = balance.load_accounts(transaction)
            of_results = balance.load_accounts(transaction, of_results=True)
        self._report_rows([*accounts, *of_results], overdue)
        displaced = self._displaced()
        if displaced:
            self._add(Finding(kind=Kind.DISPLACED, text=displaced))
        waiting = Counter(self._not_entered.values())
        return AuditReport(
            balance=accounts, results=of_results, found=self._found, not_entered=waiting, running=running
        )

    # --- objects and their rows -------------------------------------------------------------------------------------

    def _list_keys(self) -> set[str]:
        keys = set()
        for count, key in enumerate(self._storage.keys(), start=1):
            keys.add(key)
            if count % BATCH == 0:
                self._on_progress("objects listed", count, None)
        return keys

    def _compare(self, keys: set[str]) -> list[int]:
        """Remove the keys of all rows from `keys`; return the ids of the instances that do not match their objects."""
        suspects = []
        with self._ledger.read() as transaction:
            newest = instances.last_number(transaction)
        for rows in self._read_new_rows():
            for row in rows:
                has_no_object = row.storage_key not in keys
                keys.discard(row.storage_key)
                if not (has_no_object and row.state is InstanceState.RECLAIMED) and self._mismatch(row) is not None:
                    suspects.append(row.instance_id)
            self._on_progress("instances compared", self._last_id, max(newest, self._last_id))
        for one in self._compare_attachments(keys):
            if self._is_kept(one) and not self._exists(one.storage_key):
                self._add(Finding(kind=Kind.MISSING, text=f"attachment {one.instance_id} has no object"))
        return suspects

    def _compare_attachments(self, keys: set[str]) -> list[Attachment]:
        """Remove the keys of attachments from `keys`; return the attachments whose keys were not among them."""
        last = 0
        without: list[Attachment] = []
        while True:
            with self._ledger.read() as transaction:
                batch = attachments.after(transaction, last, BATCH)
            if not batch:
                return without
            without += [one for one in batch if one.storage_key not in keys]
            keys.difference_update(one.storage_key for one in batch)
            last = batch[-1].instance_id

    def _is_kept(self, one: Attachment) -> bool:
        """Return whether a job has produced or delivers an attachment. If none has, the object is deleted first."""
        if one.job_number is not None:
            return True
        with self._ledger.read() as transaction:
            return bool(job_attachments.deliveries(transaction, one.instance_id))

    def _read_new_rows(self) -> Iterator[list[ObjectRow]]:
        """Yield the rows that have not been read yet, in batches."""
        while True:
            with self._ledger.read() as transaction:
                rows = balance.object_rows_after(transaction, self._last_id, BATCH)
            if not rows:
                return
            self._last_id = rows[-1].instance_id
            yield rows

    def _reload(self, instance_ids: Sequence[int]) -> Iterator[ObjectRow]:
        """Yield the current state of these rows."""
        for start in range(0, len(instance_ids), BATCH):
            with self._ledger.read() as transaction:
                rows = balance.object_rows(transaction, instance_ids[start : start + BATCH])
            yield from rows

    def _mismatch(self, row: ObjectRow) -> Finding | None:
        """Return the mismatch of a row and its object; None if they match."""
        try:
            size = self._size(row)
        except StoredObjectChanged as failure:
            return _finding(row, Kind.CHANGED, str(failure))
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            return _finding(row, Kind.UNREADABLE, f"{_name(row)} cannot be read ({type(failure).__name__})")
        if row.state is InstanceState.RECLAIMED:
            return None if size is None else _finding(row, Kind.NOT_DELETED, f"{_name(row)} still has its object")
        if size is None:
            return self._missing(row)
        if size != row.size_bytes:
            return _finding(row, Kind.CHANGED, f"{_name(row)}: its object has {size} bytes instead of {row.size_bytes}")
        return None

    def _missing(self, row: ObjectRow) -> Finding:
        if row.state is InstanceState.RELEASED:
            with self._ledger.read() as transaction:
                needed = balance.is_needed(transaction, row.instance_id)
            if not needed:
                return _finding(row, Kind.UNFINISHED, f"{_name(row)}: its object is deleted, its reclaim is unfinished")
            return _finding(row, Kind.MISSING, f"{_name(row)} has no object, and a job needs it")
        return _finding(row, Kind.MISSING, f"{_name(row)} has no object")

    def _size(self, row: ObjectRow) -> int | None:
        """Return the size of the object in bytes; None if the object does not exist."""
        try:
            file = self._storage.read(row.storage_key)
        except StoredObjectMissing:
            return None
        with file:
            if not self._verify or row.state is InstanceState.RECLAIMED:
                return file.seek(0, os.SEEK_END)
            reader = VerifiedReader(file, row)
            while reader.read(PIECE_BYTES):
                pass
            return row.size_bytes

    def _confirm_orphans(self, keys: set[str]) -> set[str]:
        """Return the keys whose objects still exist, without a row and not of an instance that is not yet entered."""
        # These instances are read before the rows, because an instance may get its row in between.
        for instance in self._find_not_entered() if keys else ():
            if instance.storage_key in keys:
                keys.discard(instance.storage_key)
                self._not_entered[instance.storage_key] = instance.ae_title
        for rows in self._read_new_rows() if keys or self._not_entered else ():
            for row in rows:
                keys.discard(row.storage_key)
                self._not_entered.pop(row.storage_key, None)
        if keys:
            self._compare_attachments(keys)  # removes the keys of attachments of jobs that ended meanwhile
        return {key for key in keys if self._exists(key)}

    def _exists(self, key: str) -> bool:
        try:
            self._storage.read(key).close()
        except StoredObjectMissing:
            return False
        except Exception:  # noqa: BLE001 - a plugin may raise anything; an unreadable object exists
            return True
        return True

    def _find_overdue(self) -> set[int]:
        with self._ledger.read() as transaction:
            return set(balance.overdue(transaction, self._clock.now() - RECLAIM_TIME))

    # --- findings ---------------------------------------------------------------------------------------------------

    def _report_objects(self, suspects: Sequence[int], orphans: Iterable[str]) -> None:
        for row in self._reload(suspects):
            self._add(self._mismatch(row))
        for key in sorted(orphans):
            self._add(Finding(kind=Kind.ORPHAN, storage_key=key, text=f"object {key} belongs to no instance"))

    def _report_rows(self, accounts: Sequence[Account], overdue: set[int]) -> None:
        with self._ledger.read() as transaction:
            incomplete = balance.incomplete_jobs(transaction) + job_attachments.incomplete_jobs(transaction)
            reclaimed = balance.reclaimed_but_needed(transaction)
            replaced = balance.with_missing_replacement(transaction)
        for row in self._reload(sorted(overdue)):
            self._add(_finding(row, Kind.OVERDUE, f"{_name(row)} is no longer needed, but was not reclaimed"))
        for job_id, ae_title in incomplete:
            text = f"job {job_id} ({ae_title}) does not have all its instances"
            self._add(Finding(kind=Kind.INCOMPLETE, text=text, ae_title=ae_title, job_id=job_id))
        for job_id, ae_title, instance_id in reclaimed:
            text = f"job {job_id} ({ae_title}) needs instance {instance_id}, which was reclaimed"
            self._add(
                Finding(kind=Kind.WITHOUT_DATA, text=text, ae_title=ae_title, job_id=job_id, instance_id=instance_id)
            )
        for instance_id, ae_title in replaced:
            text = f"instance {instance_id} ({ae_title}) was replaced by an instance that does not exist"
            self._add(Finding(kind=Kind.REPLACEMENT_MISSING, text=text, ae_title=ae_title, instance_id=instance_id))
        for account in accounts:
            if account.difference:
                text = (
                    f"{account.ae_title}: {account.difference:+} of {account.received} received are not accounted for"
                )
                self._add(Finding(kind=Kind.BALANCE, text=text, ae_title=account.ae_title))

    def _add(self, finding: Finding | None) -> None:
        if finding is not None:
            self._found.setdefault(finding.kind, FindingList()).add(finding)


def _name(row: ObjectRow) -> str:
    return f"instance {row.instance_id} ({row.ae_title}, {row.state.value})"


def _finding(row: ObjectRow, kind: Kind, text: str) -> Finding:
    return Finding(
        kind=kind, text=text, ae_title=row.ae_title, instance_id=row.instance_id, storage_key=row.storage_key
    )
