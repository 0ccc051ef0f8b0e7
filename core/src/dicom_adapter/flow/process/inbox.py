"""Part of step 4: what has arrived for a lane and is yet to be delivered, read ahead from the ledger.

It begins anew with each processor, at the first instance that is pending.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

from dicom_adapter.api.errors import LedgerError
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.runtime.clock import Clock

BATCH = 1000  # instances that a lane reads ahead: bounds its memory, whatever is pending


class Inbox:
    """For the lane's own thread, but for `has_news`."""

    def __init__(self, ae_title: str, ledger: Ledger, clock: Clock) -> None:
        self.has_news = True  # something may have arrived; set from any thread
        self.seen = 0  # the last instance that was read
        self._ae_title = ae_title
        self._ledger = ledger
        self._clock = clock
        self._waiting: deque[InstanceStorageInfo] = deque()
        self._read_at: datetime | None = None
        self._delivering_since: datetime | None = clock.now()  # what was pending; None: all of that is delivered

    def first(self) -> InstanceStorageInfo | None:
        """The next one to deliver; it stays."""
        return self._waiting[0] if self._waiting else None

    def pop(self) -> InstanceStorageInfo:
        """Take the one that `first` showed."""
        return self._waiting.popleft()

    def refill(self, due: datetime | None) -> None:
        """Read what has arrived. Before a timer rings too, at `due`: what came before has to be delivered first."""
        must_look = due is not None and (self._read_at is None or self._read_at < due)
        if self._waiting or not (self.has_news or must_look):
            return
        self.has_news = False  # before reading: what arrives meanwhile is news again
        now = self._clock.now()
        try:
            with self._ledger.read() as transaction:
                self._waiting.extend(instances.pending_after(transaction, self.seen, BATCH, self._ae_title))
        except LedgerError:
            self.has_news = True
            raise
        self._read_at = now
        if self._waiting:
            self.seen = self._waiting[-1].instance_id
        self.has_news = self.has_news or len(self._waiting) == BATCH

    def caught_up(self) -> float | None:
        """Seconds that it took to deliver all that was pending, once it is; None before, and when that was told."""
        since = self._delivering_since
        if since is None or self._waiting:
            return None
        self._delivering_since = None
        return (self._clock.now() - since).total_seconds()
