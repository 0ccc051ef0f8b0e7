"""What became of the jobs that a platform has started."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from dicom_adapter.flow.submit.steps import Submission
from dicom_adapter.ledger import jobs
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.workers import SLICE_SECONDS

ASKED_AT_ONCE = 50  # started jobs that are asked after in one step


class PlatformWatch:
    """Asks the platform from time to time what became of the jobs that it started."""

    def __init__(self, name: str, submission: Submission, every: timedelta, resources: Resources) -> None:
        self._name = name
        self._submission = submission
        self._every = every
        self._ledger, self._clock = resources.ledger, resources.clock

    def step(self) -> datetime:
        """Ask after the jobs that were not asked after for long enough, some at a time."""
        self._submission.open()
        now = self._clock.now()
        with self._ledger.read() as transaction:
            found = jobs.due_for_polling(transaction, self._name, now - self._every, ASKED_AT_ONCE)
        end = time.monotonic() + SLICE_SECONDS
        for row in found:
            self._submission.ask(row)
            if time.monotonic() >= end:
                return now
        return now if len(found) == ASKED_AT_ONCE else now + self._every
