"""Step 5 (`submit`) of the flow: follow the state of submitted jobs on the platform."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from dicom_adapter.api.errors import Permanent, Retriable, describe_failure
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import Job, PlatformStatus
from dicom_adapter.flow.submit.submission import Submission
from dicom_adapter.ledger import events, jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.runtime.peer_health import PROBE_EVERY, PeerHealth
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.workers import SLICE_SECONDS

log = structlog.get_logger("dicom_adapter.submit")

MAX_LOGGED = 3  # number of jobs whose failing requests are logged; more of them have the same cause, the platform
JOBS_PER_STEP = 50  # number of submitted jobs whose status is requested in one step


class PlatformWatch:
    """Polls the platform for the status of submitted jobs, and records changes."""

    def __init__(
        self,
        name: str,
        submitter: Submitter[Any],
        submission: Submission,
        every: timedelta,
        resources: Resources,
        on_change: Callable[[Job], None],
    ) -> None:
        """Poll for the jobs of the submitter `name`. `submission` opens the submitter before its first use."""
        self._name = name
        self._submitter = submitter
        self._submission = submission
        self._every = every
        self._ledger, self._clock = resources.ledger, resources.clock
        self._on_change = on_change
        self.health = PeerHealth()  # of the platform, from the requests for the status
        self._failing: set[str] = set()  # ids of the jobs whose last request failed

    def step(self) -> datetime:
        """Request the status of some jobs that are due. Return the time of the next call."""
        self._submission.open()
        now = self._clock.now()
        if self.health.failures:
            return self._probe(now)
        with self._ledger.read() as transaction:
            found = jobs.due_for_polling(transaction, self._name, now - self._every, now, JOBS_PER_STEP)
        end = time.monotonic() + SLICE_SECONDS
        for row in found:
            self._poll(row)
            if self.health.failures:
                return now + min(self._every, PROBE_EVERY)
            if time.monotonic() >= end:
                return now
        return now if len(found) == JOBS_PER_STEP else now + self._every

    def _probe(self, now: datetime) -> datetime:
        """Request the status of one job, because the last request failed. Return the time of the next call."""
        with self._ledger.read() as transaction:
            found = jobs.due_for_polling(transaction, self._name, now, now, 1)
        if not found:
            self.health.succeeded()  # no job waits for the platform
        for row in found:
            self._poll(row)
        return now + min(self._every, PROBE_EVERY) if self.health.failures else now

    def _poll(self, row: JobRow) -> None:
        """Request the status of one job, and record it."""
        status = self._status(row.job)
        now = self._clock.now()
        with self._ledger.write() as transaction:
            jobs.mark_polled(transaction, row.number, now)
            if status is None:
                return
            changed = jobs.change(
                transaction,
                row,
                platform_state=status.state,
                platform_detail=status.detail,
                platform_finished=status.finished,
            )
            if changed.job == row.job:
                return
            events.record(transaction, [_platform_state(changed.job, now)])
        log.info("job_platform_state", job_id=row.job.job_id, state=status.state, detail=status.detail)
        self._on_change(changed.job)

    def _status(self, job: Job) -> PlatformStatus | None:
        try:
            status = _checked_status(self._submitter.status(job))
        except Permanent as failure:
            status = PlatformStatus(state="unknown", finished=True, detail=str(failure))
        except Retriable as failure:
            if self._is_new_failure(job, str(failure)):
                log.info("platform_status_failed", job_id=job.job_id, reason=str(failure))
            return None
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            if self._is_new_failure(job, describe_failure(failure)):
                log.warning("platform_status_failed", job_id=job.job_id, reason=describe_failure(failure))
            return None
        self._note_answer(job)
        return status

    def _is_new_failure(self, job: Job, reason: str) -> bool:
        """Record a failed request. Return whether to log it: the first of this job, unless many jobs have failures."""
        self.health.failed(self._clock.now(), reason)
        is_new = job.job_id not in self._failing and len(self._failing) < MAX_LOGGED
        self._failing.add(job.job_id)
        return is_new

    def _note_answer(self, job: Job) -> None:
        self.health.succeeded()
        if job.job_id in self._failing:
            self._failing.remove(job.job_id)
            if not self._failing:
                log.info("platform_status_recovered", submitter=self._name)


def _platform_state(job: Job, now: datetime) -> Event:
    detail = {"state": job.platform_state, "message": job.platform_detail}
    return Event(at=now, event="job_platform_state", ae_title=job.ae_title, job_id=job.job_id, detail=detail)


def _checked_status(status: PlatformStatus) -> PlatformStatus:
    """Raise TypeError for a malformed status, before it is written to the ledger."""
    texts = isinstance(status, PlatformStatus) and isinstance(status.state, str) and isinstance(status.detail, str)
    if not texts or not isinstance(status.finished, bool):
        raise TypeError("status must return PlatformStatus(state=<text>, finished=<bool>, detail=<text>)")
    return status
