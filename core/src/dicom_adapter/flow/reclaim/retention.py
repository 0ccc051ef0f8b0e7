"""After step 6: delete history that is older than the retention period, so that the ledger does not grow forever.

`ledger.history` determines which rows may be deleted. This module deletes them in small transactions, with pauses in
which others can write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta

import structlog

from dicom_adapter.ledger import Ledger, Transaction, history
from dicom_adapter.ledger.history import BEGINNING, Page, Place
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.retention")

EVERY = timedelta(minutes=10)  # from the end of one run to the beginning of the next
PAUSE = timedelta(milliseconds=100)  # between two transactions of a run, for receivers to write
BATCH = 500  # instances or events that one transaction examines
JOBS = 100  # jobs that one transaction examines; fewer if they have many instances (JOB_ROWS)
JOB_ROWS = 2000  # a job is deleted as a whole; from this number of rows on, no further job is added to the transaction

Look = Callable[[Transaction, Place], Page]
Forget = Callable[[Transaction, Sequence[int]], int]


class Retention:
    """Deletes old history. Not thread-safe: used by one thread only."""

    def __init__(self, ledger: Ledger, clock: Clock, lasting: timedelta, asked: Collection[str]) -> None:
        """`lasting`: the retention period; `asked`: submitters whose platforms report the end of a job."""
        self._ledger = ledger
        self._clock = clock
        self._lasting = lasting
        self._asked = asked
        self._run: Iterator[bool] | None = None  # the run in progress
        self._next = clock.now()

    def step(self) -> datetime:
        """Delete a few rows, when it is time; return the time of the next call."""
        now = self._clock.now()
        if now < self._next:
            return self._next
        run = self._run or self._forget(now)
        self._run = None  # a failed run is not continued
        if next(run, False):
            self._run = run
        self._next = now + (PAUSE if self._run else EVERY)
        return self._next

    def _forget(self, now: datetime) -> Iterator[bool]:
        """Delete all that is old enough; yield True after each transaction."""
        before = now - self._lasting
        unasked = before - self._lasting
        jobs = self._pages(
            lambda reading, after: history.finished_jobs(reading, before, after, JOBS, JOB_ROWS),
            lambda writing, numbers: history.delete_jobs(writing, numbers, self._asked, unasked),
        )
        instances = self._pages(
            lambda reading, after: history.reclaimed_instances(reading, before, after, BATCH), history.delete_instances
        )
        events = self._pages(
            lambda reading, after: history.old_events(reading, before, after, BATCH), history.delete_events
        )
        gone: Counter[str] = Counter()
        for what, counts in (("jobs", jobs), ("instances", instances), ("events", events)):
            for count in counts:
                gone[what] += count
                yield True
        if any(gone.values()):
            log.info("history_forgotten", **gone)

    def _pages(self, look: Look, forget: Forget) -> Iterator[int]:
        """Delete page by page, oldest first; yield the number of rows deleted for each page."""
        place = BEGINNING
        while True:
            with self._ledger.read() as transaction:
                page = look(transaction, place)
            if page.end == place:
                return
            gone = 0
            if page.numbers:
                with self._ledger.write() as transaction:
                    gone = forget(transaction, page.numbers)
            yield gone
            place = page.end
