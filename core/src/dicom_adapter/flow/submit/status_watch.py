"""Part of step 5: follow the state of started jobs on their platform."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from dicom_adapter.flow.submit.steps import Submission
from dicom_adapter.ledger import jobs
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.workers import SLICE_SECONDS

ASKED_AT_ONCE = 50  # started jobs whose status is requested in one step


class PlatformWatch:
    """Requests the status of started jobs from the platform, periodically."""

    def __init__(self, name: str, submission: Submission, every: timedelta, resources: Resources) -> None:
        self._name = name
        self._submission = submission
        self._every = every
        self._ledger, self._clock = resources.ledger, resources.clock

    def step(self) -> datetime:
        """Request the status of some jobs whose last status is old enough; return the time of the next call."""
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
