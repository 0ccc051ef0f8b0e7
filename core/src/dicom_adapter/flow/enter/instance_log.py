"""Entry of rows: the receiver's side of the log. It passes instances to the follower, and limits their number.

A stored instance without a row is *stored, not yet entered*. While the host runs, it enters the row within
milliseconds. The limits below apply when the host does not run, or cannot write to the ledger.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from dicom_adapter.api.counts import counted
from dicom_adapter.flow.enter.journal import JournalWriter
from dicom_adapter.flow.enter.progress import FollowerProgress, open_progress
from dicom_adapter.flow.enter.received_instance import ReceivedInstance

MOST_WAITING = 50_000  # maximum number of stored instances without rows: the host enters them in a few seconds
LONGEST_WAIT_SECONDS = 60.0  # if a stored instance waits longer for its row, further instances are refused
POLL_SECONDS = 0.005  # time between two reads of the progress during a wait


class InstanceLog:
    """The journal of one receiver run, and the progress of its follower.

    Only one thread at a time calls `append`. The other methods are thread-safe.
    """

    def __init__(
        self, folder: Path, receiver_run: str, receiver: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Create the journal in `folder`. Raises OSError."""
        self._journal = JournalWriter(folder, receiver_run, receiver)
        self._descriptor = open_progress(self._journal.path)
        self._monotonic = monotonic
        self._progress = FollowerProgress()
        self.last = 0  # number of the last record in the journal
        self._waiting: deque[tuple[int, float]] = deque()  # number of the last record, and time, of each append
        self._lock = threading.Lock()  # guards `_waiting`

    def append(self, received: Sequence[ReceivedInstance]) -> None:
        """Hand instances over, in the order of their numbers. Raises OSError if none of them was handed over."""
        self._journal.append([(instance.storage_key, instance.record) for instance in received])
        self.last = received[-1].number
        with self._lock:
            self._waiting.append((self.last, self._monotonic()))

    @property
    def progress(self) -> FollowerProgress:
        """The current progress of the follower."""
        self._progress = FollowerProgress.read(self._descriptor) or self._progress
        return self._progress

    def refusal(self) -> str:
        """Return why no further instance may be acknowledged now; "" if one may."""
        progress = self.progress
        if progress.is_ledger_full:
            return "there is no free space for the ledger, so that stored instances wait for their rows"
        waiting = self.last - progress.entered
        if waiting >= MOST_WAITING:
            return f"{counted(waiting, 'stored instance')} wait for their rows in the ledger"
        seconds = self._longest_wait(progress.entered)
        if seconds > LONGEST_WAIT_SECONDS:
            return f"a stored instance has waited for its row in the ledger for {seconds:.0f} s"
        return ""

    def wait_until_entered(self, number: int, seconds: float) -> bool:
        """Wait until all records up to this number have rows. Return False if that takes longer than `seconds`."""
        return self._wait(lambda: self.progress.entered >= number, seconds)

    def wait_until_confirmed(self, seconds: float) -> bool:
        """Wait until all rows are durable. Return False if that takes longer than `seconds`."""
        return self._wait(lambda: self.progress.confirmed >= self.last, seconds)

    def end(self) -> None:
        """End the journal: no instance will be appended."""
        self._journal.close()

    def close(self) -> None:
        """Close the file with the progress."""
        os.close(self._descriptor)

    def _wait(self, is_done: Callable[[], bool], seconds: float) -> bool:
        end = self._monotonic() + seconds
        while not is_done():
            if self._monotonic() >= end:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _longest_wait(self, entered: int) -> float:
        with self._lock:
            while self._waiting and self._waiting[0][0] <= entered:
                self._waiting.popleft()
            return self._monotonic() - self._waiting[0][1] if self._waiting else 0.0
