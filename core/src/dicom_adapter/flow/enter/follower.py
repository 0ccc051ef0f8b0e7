"""Entry of rows: the follower in the host, which enters the rows of the receivers' journals.

    follow       read all journals in the order of time, and enter the rows in batches
    enter_until  the same, unless it was done after the given time: called before a group becomes due
    checkpoint   sync the ledger once a second, and report the numbers up to which rows are durable

The follower reads the journals of all receiver runs, also of ended ones, and reports its progress to the receivers. A
new host continues after the confirmed lines. Lines that it reads again are below the high-water mark. A journal is
deleted when its run has ended and all its rows are confirmed.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from attrs import define, evolve

from dicom_adapter.api.errors import LedgerUnavailable, describe_failure
from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.dicom.identity import UID_GRAMMAR
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.journal import NEW_SUFFIX, JournalReader, journals
from dicom_adapter.flow.enter.progress import (
    PROGRESS_SUFFIX,
    FollowerProgress,
    journal_of,
    open_progress,
    progress_path,
)
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.stored_objects import delete_stored_objects
from dicom_adapter.ledger import receiver_runs
from dicom_adapter.ledger.microseconds import to_microseconds
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.enter")

BATCH = 500  # rows of one transaction: small batches cost more for each row, large batches delay other transactions
CHECKPOINT_SECONDS = 1.0  # time between two syncs of the ledger, which confirm the rows
FREED_BYTES = 16 << 20  # confirmed lines of a journal are freed in pieces of at least this size


@define(eq=False)
class FollowedJournal:
    """A journal, and the progress that the receiver reads."""

    reader: JournalReader
    progress: FollowerProgress
    descriptor: int  # of the file with the progress
    freed: int = 0  # offset up to which lines are freed
    has_ended: bool = False  # the receiver run has ended, and all lines were read

    @classmethod
    def open(cls, path: Path) -> FollowedJournal:
        """Open a journal. Continue after its confirmed lines. Raises OSError."""
        reader, descriptor = JournalReader(path), open_progress(path)
        progress = FollowerProgress.read(descriptor) or FollowerProgress()
        reader.position = progress.position
        return cls(reader, progress, descriptor, freed=progress.position)

    @property
    def is_confirmed(self) -> bool:
        return self.progress.confirmed >= self.progress.entered

    def report(self, **changes: Any) -> None:
        """Report progress to the receiver. Raises OSError."""
        self.progress = evolve(self.progress, **changes)
        self.progress.write(self.descriptor)

    def confirm(self) -> None:
        """Report that all entered rows are durable, and free their lines. Raises OSError."""
        self.report(confirmed=self.progress.entered, position=self.reader.position)
        if self.reader.position - self.freed >= FREED_BYTES:
            self.reader.free(self.freed, self.reader.position)
            self.freed = self.reader.position

    def close(self) -> None:
        self.reader.close()
        os.close(self.descriptor)

    def delete(self) -> None:
        """Delete the journal, then its progress: a journal without its progress would be read again from the start."""
        self.close()
        for path in (self.reader.path, progress_path(self.reader.path)):
            with suppress(FileNotFoundError):
                path.unlink()


@define(eq=False)
class _Line:
    journal: FollowedJournal
    end: int  # offset after the line
    instance: ReceivedInstance


class Follower:
    """Enters the rows of journals. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        entry: RowEntry,
        resources: Resources,
        on_entered: Callable[[Sequence[StoreResult]], None],
        *,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """`folder`: folder of the journals. `on_entered` is called after each transaction, with its results."""
        self._folder = folder
        self._entry = entry
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._on_entered = on_entered
        self._journals: dict[Path, FollowedJournal] = {}
        self._entered_until: datetime | None = None  # all instances that were acknowledged before this time have rows
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_at = time.monotonic()
        self._may_checkpoint = True  # False after an I/O error of the disk of the ledger
        self._lock = threading.Lock()
        _delete_leftovers(folder)

    def follow(self) -> int:
        """Enter the rows of all lines that are there now. Return their number. Raises LedgerUnavailable, OSError.

        An error of a storage backend or of a single row is raised only if the instance could not be quarantined.
        """
        with self._lock:
            now = self._clock.now()
            self._find_journals()
            ended = [journal for journal in self._journals.values() if not journal.reader.is_open]
            lines = heapq.merge(*map(self._lines, self._journals.values()), key=_time)
            count = sum(self._enter(batch) for batch in _batches(lines))
            for journal in ended:
                journal.has_ended = True
            self._entered_until = now
            if time.monotonic() >= self._checkpoint_at or ended:
                self._checkpoint()
            return count

    def enter_until(self, moment: datetime) -> None:
        """Make sure that every instance that was acknowledged before `moment` has a row. Errors as `follow`.

        Otherwise a group could become due although another instance of it is stored.
        """
        entered = self._entered_until
        if entered is None or not moment <= entered <= self._clock.now():  # the clock may have been put back
            self.follow()

    def checkpoint(self) -> None:
        """Sync the ledger, and report the confirmed numbers."""
        with self._lock:
            self._checkpoint()

    def close(self) -> None:
        with self._lock:
            for journal in self._journals.values():
                journal.close()
            self._journals.clear()

    def _find_journals(self) -> None:
        for path in journals(self._folder):
            if path not in self._journals:
                self._journals[path] = FollowedJournal.open(path)

    def _lines(self, journal: FollowedJournal) -> Iterator[_Line]:
        """Return the lines that were appended since the last call, up to the current end of the journal."""
        # Instances that were acknowledged before this time have rows already, so these arrived later.
        passed = 0 if self._entered_until is None else to_microseconds(self._entered_until)
        return (_line(journal, end, instance, passed) for end, instance in journal.reader.read())

    def _enter(self, lines: Sequence[_Line]) -> int:
        """Enter a batch. Return the number of its rows."""
        try:
            results = self._entry.enter_each([line.instance for line in lines], synced=False)
        except LedgerUnavailable as failure:
            if failure.is_full:
                self._report_full(is_full=True)
            raise  # the next call reads these lines again
        self._report_full(is_full=False)  # also to receivers without waiting instances
        last = {line.journal.reader.path: line for line in lines}
        for line in last.values():
            line.journal.report(entered=line.instance.number)
            # Only after the report: if the report fails, the next call reads the line again.
            line.journal.reader.position = line.end
        decided = [(line.instance, result) for line, result in zip(lines, results, strict=True) if result is not None]
        delete_stored_objects(self._storage, [one for one, result in decided if result.instance is None])
        for instance, result in decided:
            _log(instance, result)
        self._on_entered([result for _instance, result in decided])
        return sum(result.instance is not None for _instance, result in decided)

    def _report_full(self, *, is_full: bool) -> None:
        for journal in self._journals.values():
            if journal.progress.is_ledger_full != is_full:
                journal.report(is_ledger_full=is_full)

    def _checkpoint(self) -> None:
        self._checkpoint_at = time.monotonic() + self._checkpoint_seconds
        journals_by_run = {journal.reader.run: journal for journal in self._journals.values()}
        if not all(journal.is_confirmed for journal in journals_by_run.values()):
            if not self._may_checkpoint:
                return
            living = [run for run, journal in journals_by_run.items() if not journal.has_ended]
            try:
                with self._ledger.write() as transaction:
                    receiver_runs.confirm(transaction, journals_by_run, living)
            except LedgerUnavailable as failure:
                # A failed sync is not repeated: the kernel may drop the data and then report success (fsync(2)).
                self._may_checkpoint = not failure.is_io_error
                log.warning("checkpoint_failed", error=describe_failure(failure))
                return
        for path, journal in list(self._journals.items()):
            journal.confirm()
            if journal.has_ended:
                del self._journals[path]
                journal.delete()


def _line(journal: FollowedJournal, end: int, instance: ReceivedInstance, passed: int) -> _Line:
    instance.columns["received_at"] = max(passed, instance.columns["received_at"])
    return _Line(journal, end, instance)


def _time(line: _Line) -> int:
    received_at: int = line.instance.columns["received_at"]
    return received_at


def _batches(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    iterator = iter(lines)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _log(instance: ReceivedInstance, result: StoreResult) -> None:
    if result.instance is None:
        uid = instance.sop_instance_uid
        log.debug(
            "instance_ignored",
            association_id=instance.association_id,
            ae_title=instance.ae_title,
            sop_instance_uid=uid if UID_GRAMMAR.fullmatch(uid) else "",  # any other text may be patient data
            reason=result.reason,
        )
    elif result.reason:
        log.warning(
            "instance_quarantined",
            ae_title=instance.ae_title,
            instance_id=result.instance.instance_id,
            reason=result.reason,
        )


def _delete_leftovers(folder: Path) -> None:
    """Delete what a power loss or a kill has left: progress without a journal, and new journals without a lock."""
    for path in folder.glob(f"*{PROGRESS_SUFFIX}"):
        if not journal_of(path).exists():
            path.unlink(missing_ok=True)
    for path in folder.glob(f"*{NEW_SUFFIX}"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # a receiver is starting
            path.unlink()
