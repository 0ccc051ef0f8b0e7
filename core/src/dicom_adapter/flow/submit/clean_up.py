"""Step 5 (`submit`) of the flow: let the platform delete what it keeps for runs that have ended.

The ledger records each run to clean up (see `ledger.clean_ups`), so a crash or an error only delays the call. The calls
have a thread of their own: a platform that fails or hangs delays no step of a job.
"""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta
from typing import Any

import structlog

from dicom_adapter.api.errors import Permanent, Retriable, describe_failure
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.flow.submit.scheduling import Retries
from dicom_adapter.flow.submit.submission import Submission
from dicom_adapter.flow.submit.uploading import lacks_resources
from dicom_adapter.ledger import clean_ups, events
from dicom_adapter.ledger.clean_ups import CleanUp
from dicom_adapter.ledger.events import Event
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.workers import SLICE_SECONDS

log = structlog.get_logger("dicom_adapter.submit")

CLEAN_UPS_PER_STEP = 50


class CleanUps:
    """Calls `clean_up` of one submitter for the runs that the ledger records. Not thread-safe."""

    def __init__(
        self,
        name: str,
        submitter: Submitter[Any],
        submission: Submission,
        retries: Retries,
        resources: Resources,
        poll_every: timedelta,
    ) -> None:
        """Clean up the runs of the submitter `name`. `submission` opens the submitter before its first use.

        `poll_every`: time between two reads of the ledger, because the host is not notified of an operator's
        retry.
        """
        self._name = name
        self._submitter = submitter
        self._submission = submission
        self._retries = retries
        self._ledger, self._clock = resources.ledger, resources.clock
        self._poll_every = poll_every
        self._failing: set[int] = set()  # the clean-ups that have failed since the last success
        self._pause_until: datetime | None = None  # no call before this time, because the last call has failed

    def step(self) -> datetime:
        """Clean up the runs that are due. Return the time of the next call."""
        now = self._clock.now()
        if self._pause_until is not None and now < self._pause_until <= now + self._retries.longest:
            return self._pause_until
        with self._ledger.read() as transaction:
            found = clean_ups.due(transaction, self._name, now, CLEAN_UPS_PER_STEP, now + self._retries.longest)
            postponed = clean_ups.next_attempt(transaction, self._name)
        end = time.monotonic() + SLICE_SECONDS
        for one in found:
            self._submission.open()
            self._clean_up(one)
            if self._pause_until is not None:
                return self._pause_until
            if time.monotonic() >= end:
                return now
        if len(found) == CLEAN_UPS_PER_STEP:
            return now
        latest = now + self._poll_every
        return latest if postponed is None or postponed <= now else min(postponed, latest)

    def _clean_up(self, one: CleanUp) -> None:
        """Call the submitter once, and record the result."""
        self._pause_until = None
        try:
            self._submitter.clean_up(one.job)
        except KeyboardInterrupt:
            raise
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            if self._submission.is_closing:
                self._pause_until = self._clock.now() + self._retries.longest  # the next start calls it again
            elif isinstance(failure, Permanent) and not lacks_resources(failure):
                self._give_up(one, str(failure))
            else:
                self._postpone(one, self._describe(failure))
            return
        self._failing.clear()
        with self._ledger.write(synced=False) as transaction:  # a power loss only repeats the call
            clean_ups.remove(transaction, one.number)

    def _describe(self, failure: BaseException) -> str:
        if isinstance(failure, Retriable) or lacks_resources(failure):
            return str(failure) if isinstance(failure, Retriable) else type(failure).__name__
        return f"bug in submitter '{self._name}': {describe_failure(failure)}"

    def _postpone(self, one: CleanUp, error: str) -> None:
        """Record a failed attempt. Attempts never end: files that are not deleted fill the platform's disk."""
        self._failing.add(one.number)
        now, attempts = self._clock.now(), one.attempts + 1
        self._pause_until = now + self._retries.pause(len(self._failing), random.random())  # noqa: S311 - spreads load
        when = max(self._pause_until, now + self._retries.pause(attempts, random.random()))  # noqa: S311 - as above
        with self._ledger.write(synced=False) as transaction:
            clean_ups.postpone(transaction, one.number, attempts, when, error)
        if attempts == 1:
            log.info("job_clean_up_postponed", job_id=one.job.job_id, run=one.job.run, reason=error)

    def _give_up(self, one: CleanUp, reason: str) -> None:
        event = Event(
            at=self._clock.now(),
            event="job_clean_up_failed",
            ae_title=one.job.ae_title,
            job_id=one.job.job_id,
            detail={"of_run": one.job.run, "reason": reason},
        )
        with self._ledger.write() as transaction:
            clean_ups.remove(transaction, one.number)
            events.record(transaction, [event])
        log.warning("job_clean_up_failed", job_id=one.job.job_id, run=one.job.run, reason=reason)
