"""After step 6: forget what was finished long ago, so that the ledger does not grow for ever.

`ledger.history` says what may go. Here it goes a small transaction at a time, with pauses in which others write.
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
PAUSE = timedelta(milliseconds=100)  # between two transactions of a run: receivers write in it
BATCH = 500  # instances or events that one transaction looks at
JOBS = 100  # jobs that one transaction looks at, unless they have many instances:
JOB_ROWS = 2000  # a job goes whole, but no further one with it when there are so many

Look = Callable[[Transaction, Place], Page]
Forget = Callable[[Transaction, Sequence[int]], int]


class Retention:
    """Used by one thread."""

    def __init__(self, ledger: Ledger, clock: Clock, lasting: timedelta, asked: Collection[str]) -> None:
        """`lasting`: how long what is finished is remembered; `asked`: submitters whose platforms tell a job's end."""
        self._ledger = ledger
        self._clock = clock
        self._lasting = lasting
        self._asked = asked
        self._run: Iterator[bool] | None = None  # the one that is under way
        self._next = clock.now()

    def step(self) -> datetime:
        """Forget a few rows, when it is time; returns when to come again."""
        now = self._clock.now()
        if now < self._next:
            return self._next
        run = self._run or self._forget(now)
        self._run = None  # one that fails is not gone on with
        if next(run, False):
            self._run = run
        self._next = now + (PAUSE if self._run else EVERY)
        return self._next

    def _forget(self, now: datetime) -> Iterator[bool]:
        """Yields True after each transaction."""
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
        """Page by page, from the oldest: how many rows went."""
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
