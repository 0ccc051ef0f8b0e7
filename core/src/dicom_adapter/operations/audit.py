"""Compares the ledger with the storage, and the ledger with itself: is everything that was received accounted for?

The service may run. An object is stored before its row is written, and deleted before its row says so; so the keys of
the objects are listed first, then the rows are read and each is compared with its object, and whatever does not fit is
looked at again after a moment: what was only on its way has arrived by then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from enum import Enum

from attrs import Factory, define, frozen

from dicom_adapter.api.errors import StoredObjectMissing
from dicom_adapter.flow.verified_reader import Changed, VerifiedReader
from dicom_adapter.ledger import balance, instances
from dicom_adapter.ledger.balance import Account, Kept
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.runtime.resources import Resources

BATCH = 1000  # rows read at a time
PIECE_BYTES = 1 << 20  # of an object that is read to verify it
PAUSES_S = (0.5, 1, 2, 4)  # between looks at what does not fit, while the service runs
RECLAIM_TIME = timedelta(minutes=5)  # for what is released: the host looks every minute
LISTED = 10_000  # findings of a kind that are listed, and mended at a time; more are only counted


class Kind(str, Enum):
    """What may be found."""

    ORPHAN = "object-without-row"
    MISSING = "object-missing"
    CHANGED = "object-changed"
    UNREADABLE = "object-unreadable"
    LEFT = "object-left"
    UNFINISHED = "reclaim-unfinished"
    OVERDUE = "not-reclaimed"
    NOT_WHOLE = "job-not-whole"
    WITHOUT_DATA = "job-without-data"
    REPLACED = "replaced-by-nothing"
    BALANCE = "balance"


@frozen(kw_only=True)
class Finding:
    """Something that is not as it should be."""

    kind: Kind
    text: str  # a sentence, without patient data
    ae_title: str = ""  # "" when that is not known
    instance_id: int | None = None
    job_id: str | None = None
    storage_key: str | None = None


@define
class Found:
    """The findings of one kind."""

    count: int = 0
    listed: list[Finding] = Factory(list)  # the first of them

    def add(self, finding: Finding) -> None:
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append(finding)


@frozen(kw_only=True)
class AuditReport:
    """What an audit has come to."""

    balance: Sequence[Account]
    found: dict[Kind, Found]  # only kinds of which there is something
    running: bool  # the service ran: what is being stored, or reclaimed, for unusually long may be among the findings

    @property
    def count(self) -> int:
        return sum(found.count for found in self.found.values())


Tell = Callable[[str, int, "int | None"], None]  # what is done, how many so far, of how many


class Audit:
    """One look. Used by one thread."""

    def __init__(
        self,
        resources: Resources,
        *,
        is_running: Callable[[], bool],
        verify: bool = False,
        pause: Callable[[float], None] = time.sleep,
        tell: Tell = lambda _what, _done, _all: None,
    ) -> None:
        """`is_running`: whether anybody may change ledger or storage; `verify`: read every object that has to be there.

        `tell` is called from time to time.
        """
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._is_running = is_running
        self._verify = verify
        self._pause = pause
        self._tell = tell
        self._found: dict[Kind, Found] = {}
        self._last = 0  # the newest row that was read

    def look(self) -> AuditReport:
        """Compare everything. Raises what storage or ledger raise when they cannot be read at all."""
        running = self._is_running()
        orphans = self._list_keys()
        suspects = self._compare(orphans)
        overdue = self._overdue() if running else set()
        pauses: Iterator[float] = iter(PAUSES_S)
        while True:
            suspects = [row.instance_id for row in self._rows(suspects) if self._judge(row) is not None]
            orphans = self._still_orphans(orphans)
            overdue &= self._overdue() if overdue else set()
            running = running or self._is_running()
            wait = next(pauses, None) if running and (suspects or orphans or overdue) else None
            if wait is None:
                break
            self._pause(wait)
        self._report_objects(suspects, orphans)
        with self._ledger.read() as transaction:
            accounts = balance.balance(transaction)
        self._report_rows(accounts, overdue)
        return AuditReport(balance=accounts, found=self._found, running=running)

    # --- objects and their rows -------------------------------------------------------------------------------------

    def _list_keys(self) -> set[str]:
        keys = set()
        for count, key in enumerate(self._storage.keys(), start=1):
            keys.add(key)
            if count % BATCH == 0:
                self._tell("objects listed", count, None)
        return keys

    def _compare(self, keys: set[str]) -> list[int]:
        """Take the keys that rows name out of `keys`; returns the numbers of the rows that do not fit their objects."""
        suspects = []
        with self._ledger.read() as transaction:
            newest = instances.last_number(transaction)
        for rows in self._later_rows():
            for row in rows:
                gone = row.storage_key not in keys
                keys.discard(row.storage_key)
                if not (gone and row.state is InstanceState.RECLAIMED) and self._judge(row) is not None:
                    suspects.append(row.instance_id)
            self._tell("instances compared", self._last, max(newest, self._last))
        return suspects

    def _later_rows(self) -> Iterator[list[Kept]]:
        """Rows that were not read so far."""
        while True:
            with self._ledger.read() as transaction:
                rows = balance.kept_after(transaction, self._last, BATCH)
            if not rows:
                return
            self._last = rows[-1].instance_id
            yield rows

    def _rows(self, numbers: Sequence[int]) -> Iterator[Kept]:
        """These rows as they are now."""
        for start in range(0, len(numbers), BATCH):
            with self._ledger.read() as transaction:
                rows = balance.kept(transaction, numbers[start : start + BATCH])
            yield from rows

    def _judge(self, row: Kept) -> Finding | None:
        """Whether a row and its object fit."""
        try:
            size = self._size(row)
        except Changed as failure:
            return _of(row, Kind.CHANGED, str(failure))
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            return _of(row, Kind.UNREADABLE, f"{_name(row)} cannot be read ({type(failure).__name__})")
        if row.state is InstanceState.RECLAIMED:
            return None if size is None else _of(row, Kind.LEFT, f"{_name(row)} is reclaimed, and its object is there")
        if size is None:
            return self._missing(row)
        if size != row.size_bytes:
            return _of(row, Kind.CHANGED, f"{_name(row)}: its object has {size} bytes instead of {row.size_bytes}")
        return None

    def _missing(self, row: Kept) -> Finding:
        if row.state is InstanceState.RELEASED:
            with self._ledger.read() as transaction:
                needed = balance.is_needed(transaction, row.instance_id)
            if not needed:
                return _of(row, Kind.UNFINISHED, f"{_name(row)}: its object is deleted, its row does not say so yet")
            return _of(row, Kind.MISSING, f"{_name(row)}, which a job needs, has no object")
        return _of(row, Kind.MISSING, f"{_name(row)} has no object")

    def _size(self, row: Kept) -> int | None:
        """Of the object, in bytes; None when there is none."""
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

    def _still_orphans(self, keys: set[str]) -> set[str]:
        """Those that still have no row, and are still there."""
        for rows in self._later_rows() if keys else ():
            keys.difference_update(row.storage_key for row in rows)
        return {key for key in keys if self._is_there(key)}

    def _is_there(self, key: str) -> bool:
        try:
            self._storage.read(key).close()
        except StoredObjectMissing:
            return False
        except Exception:  # noqa: BLE001 - a plugin may raise anything; that it cannot be read does not make it go
            return True
        return True

    def _overdue(self) -> set[int]:
        with self._ledger.read() as transaction:
            return set(balance.overdue(transaction, self._clock.now() - RECLAIM_TIME))

    # --- what is wrong ----------------------------------------------------------------------------------------------

    def _report_objects(self, suspects: Sequence[int], orphans: Iterable[str]) -> None:
        for row in self._rows(suspects):
            self._add(self._judge(row))
        for key in sorted(orphans):
            self._add(Finding(kind=Kind.ORPHAN, storage_key=key, text=f"object {key} belongs to no instance"))

    def _report_rows(self, accounts: Sequence[Account], overdue: set[int]) -> None:
        with self._ledger.read() as transaction:
            not_whole = balance.jobs_not_whole(transaction)
            without_data = balance.jobs_without_data(transaction)
            replaced = balance.replaced_by_nothing(transaction)
        for row in self._rows(sorted(overdue)):
            self._add(_of(row, Kind.OVERDUE, f"{_name(row)}: nobody needs it, and it was not reclaimed"))
        for job_id, ae_title in not_whole:
            text = f"job {job_id} ({ae_title}) does not have all the instances that it was made of"
            self._add(Finding(kind=Kind.NOT_WHOLE, text=text, ae_title=ae_title, job_id=job_id))
        for job_id, ae_title, number in without_data:
            text = f"job {job_id} ({ae_title}) needs instance {number}, which is reclaimed"
            self._add(Finding(kind=Kind.WITHOUT_DATA, text=text, ae_title=ae_title, job_id=job_id, instance_id=number))
        for number, ae_title in replaced:
            text = f"instance {number} ({ae_title}) was replaced by an instance that is not there"
            self._add(Finding(kind=Kind.REPLACED, text=text, ae_title=ae_title, instance_id=number))
        for account in accounts:
            if account.difference:
                text = (
                    f"{account.ae_title}: {account.difference:+} of {account.received} received are not accounted for"
                )
                self._add(Finding(kind=Kind.BALANCE, text=text, ae_title=account.ae_title))

    def _add(self, finding: Finding | None) -> None:
        if finding is not None:
            self._found.setdefault(finding.kind, Found()).add(finding)


def _name(row: Kept) -> str:
    return f"instance {row.instance_id} ({row.ae_title}, {row.state.value})"


def _of(row: Kept, kind: Kind, text: str) -> Finding:
    return Finding(
        kind=kind, text=text, ae_title=row.ae_title, instance_id=row.instance_id, storage_key=row.storage_key
    )
