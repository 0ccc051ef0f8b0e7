"""Step 4 (`process`) of the flow: the next instances of a lane, read from the ledger in batches.

Each new processor gets a new inbox, which begins at the first pending instance.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

from attrs import define

from dicom_adapter.api.errors import LedgerError
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.runtime.clock import Clock

BATCH = 1000  # number of instances that are read together: limits the memory


@define
class LaneStart:
    """The start of a lane. If the clock was put back before it, the ledger has instances with times in the future.

    Such an instance arrived before all requests and timers of the lane: its place in the order is the start.
    """

    at: datetime
    last_number: int = 0  # id of the newest instance when the lane read the ledger for the first time
    read_at: datetime | None = None  # time after this read

    def place_of(self, instance: InstanceStorageInfo) -> datetime:
        """Return the time of arrival that determines the order of turns."""
        is_in_future = self.read_at is not None and instance.received_at > self.read_at
        return self.at if is_in_future and instance.instance_id <= self.last_number else instance.received_at


class Inbox:
    """The undelivered instances of a lane. Not thread-safe except `has_new`: used by the lane thread only."""

    def __init__(self, ae_title: str, ledger: Ledger, clock: Clock, start: LaneStart) -> None:
        """Create an empty inbox. `start` is updated by the first read of the lane."""
        self.has_new = True  # instances may have arrived; set by any thread
        self.seen = 0  # id of the last instance that was read
        self._ae_title = ae_title
        self._ledger = ledger
        self._clock = clock
        self._start = start
        self._waiting: deque[InstanceStorageInfo] = deque()
        self._read_at: datetime | None = None
        self._delivering_since: datetime | None = (
            clock.now()
        )  # start of the delivery of all pending instances; None: it is complete

    def first(self) -> InstanceStorageInfo | None:
        """Return the next instance to deliver, without removing it."""
        return self._waiting[0] if self._waiting else None

    def first_place(self) -> datetime | None:
        """Return the time that determines when the next instance is delivered; None if there is no instance."""
        return self._start.place_of(self._waiting[0]) if self._waiting else None

    def pop(self) -> InstanceStorageInfo:
        """Remove and return the instance that `first` returned."""
        return self._waiting.popleft()

    def refill(self, due: datetime | None) -> None:
        """Read new instances if the inbox is empty and new instances may have arrived.

        `due` is the time at which a timer or request was due. Instances that arrived before this time must be delivered
        first.
        """
        must_read = due is not None and (self._read_at is None or self._read_at < due)
        if self._waiting or not (self.has_new or must_read):
            return
        self.has_new = False  # before the read: an instance that arrives during the read sets the flag again
        now = self._clock.now()
        try:
            with self._ledger.read() as transaction:
                self._waiting.extend(instances.pending_after(transaction, self.seen, BATCH, self._ae_title))
                if self._start.read_at is None:
                    self._start.last_number = instances.last_number(transaction)
                    self._start.read_at = self._clock.now()
        except LedgerError:
            self.has_new = True
            raise
        self._read_at = now
        if self._waiting:
            self.seen = self._waiting[-1].instance_id
        self.has_new = self.has_new or len(self._waiting) == BATCH

    def caught_up(self) -> float | None:
        """Return, only once, the seconds that the delivery of all pending instances took; otherwise None."""
        since = self._delivering_since
        if since is None or self._waiting:
            return None
        self._delivering_since = None
        return (self._clock.now() - since).total_seconds()
