"""Step 7 (`reclaim`) of the flow: delete history that is older than the retention period, to limit the ledger.

`ledger.history` determines which rows may be deleted. This module deletes them in small transactions, with pauses in
which other processes can write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta

import structlog

from dicom_adapter.config.model import Config
from dicom_adapter.ledger import Ledger, Transaction, history, senders, trace_contexts
from dicom_adapter.ledger.history import BEGINNING, Page, Place
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.retention")

EVERY = timedelta(minutes=10)  # pause between two runs
PAUSE = timedelta(milliseconds=100)  # pause between two transactions of a run, so that others can be committed
BATCH = 500  # number of instances or events that one transaction examines
JOBS = 100  # number of jobs that one transaction examines; fewer if they have many instances (JOB_ROWS)
JOB_ROWS = 2000  # a transaction examines no further job when its jobs have this many instances; no job is split
SERIES_KEPT = timedelta(hours=1)  # longer than `flow.enter.known_series` relies on the row of a series

ReadPage = Callable[[Transaction, Place], Page]
DeleteRows = Callable[[Transaction, Sequence[int]], int]


class Retention:
    """Deletes old history. Not thread-safe: used by one thread only."""

    def __init__(
        self, ledger: Ledger, clock: Clock, period: timedelta, polled: Collection[str], submitters: Collection[str] = ()
    ) -> None:
        """Keep history for `period`. `polled` are the submitters that poll their platforms for the end of a job.

        `submitters` are all configured submitters: a job is kept while one of them has to clean up its runs.
        """
        self._ledger = ledger
        self._clock = clock
        self._period = period
        self._polled, self._submitters = polled, submitters
        self._run: Iterator[bool] | None = None  # the run in progress
        self._next = clock.now()

    @classmethod
    def of(cls, config: Config, ledger: Ledger, clock: Clock) -> Retention:
        polled = [name for name, table in config.submitters.items() if table.status_every is not None]
        return cls(ledger, clock, timedelta(days=config.ledger.history_days), polled, config.submitters)

    def step(self) -> datetime:
        """Delete the next few old rows, if they are due. Return the time of the next call."""
        now = self._clock.now()
        if now < self._next:
            return self._next
        run = self._run or self._delete_old_rows(now)
        self._run = None  # a failed run is not continued
        if next(run, False):
            self._run = run
        self._next = now + (PAUSE if self._run else EVERY)
        return self._next

    def _delete_old_rows(self, now: datetime) -> Iterator[bool]:
        """Delete all rows that are old enough. Yield True after each transaction."""
        before = now - self._period
        # A platform that is polled may report the end of a job late: a job without a reported end is kept for twice
        # the period.
        before_if_unended = before - self._period
        jobs = self._delete_pages(
            lambda reading, after: history.finished_jobs(reading, before, after, JOBS, JOB_ROWS),
            lambda writing, numbers: history.delete_jobs(
                writing, numbers, self._polled, before_if_unended, self._submitters
            ),
        )
        instances = self._delete_pages(
            lambda reading, after: history.reclaimed_instances(reading, before, after, BATCH), history.delete_instances
        )
        events = self._delete_pages(
            lambda reading, after: history.old_events(reading, before, after, BATCH), history.delete_events
        )
        before_known = min(before, now - SERIES_KEPT)
        series = self._delete_pages(
            lambda reading, after: history.old_series(reading, before_known, after, BATCH), history.delete_series
        )
        deleted: Counter[str] = Counter()
        for kind, counts in (
            ("jobs", jobs),
            ("instances", instances),
            ("events", events),
            ("series", series),
            ("senders", self._delete_senders(before, now)),
            ("trace_contexts", self._delete_trace_contexts(before)),
        ):
            for count in counts:
                deleted[kind] += count
                yield True
        if any(deleted.values()):
            log.info("history_deleted", **deleted)

    def _delete_senders(self, before: datetime, now: datetime) -> Iterator[int]:
        with self._ledger.read() as transaction:
            if not senders.has_old(transaction, before, now):
                return
        with self._ledger.write() as transaction:
            yield senders.delete_old(transaction, before, now)

    def _delete_trace_contexts(self, before: datetime) -> Iterator[int]:
        with self._ledger.read() as transaction:
            if not trace_contexts.has_old(transaction, before):
                return
        with self._ledger.write() as transaction:
            yield trace_contexts.delete_old(transaction, before)

    def _delete_pages(self, read_page: ReadPage, delete_rows: DeleteRows) -> Iterator[int]:
        """Delete page by page, oldest first. Yield the number of deleted rows for each page."""
        place = BEGINNING
        while True:
            with self._ledger.read() as transaction:
                page = read_page(transaction, place)
            if page.end == place:
                return
            deleted = 0
            if page.keys:
                with self._ledger.write() as transaction:
                    deleted = delete_rows(transaction, page.keys)
            yield deleted
            place = page.end
