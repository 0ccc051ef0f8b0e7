"""Step 5 (`submit`) of the flow: follow the state of started jobs on the platform.

The status of a submitted job is only recorded. A running job changes its state when its run has ended:

    the platform reports          then
    finished, succeeded=True      `platform_finished` is recorded: the last step of the job follows, see `steps`
    finished, without success     the job is failed
    not finished at time-limit    the job is cancelled on the platform, then it is failed (see `time_limit`)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from dicom_adapter.api.errors import IllegalTransition, Permanent, Retriable, describe_failure
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import Job, JobState, PlatformStatus
from dicom_adapter.flow.submit.submission import Submission, platform_event, platform_values
from dicom_adapter.flow.submit.time_limit import TimeLimit
from dicom_adapter.ledger import events, jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.runtime.peer_health import PROBE_EVERY, PeerHealth
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.workers import SLICE_SECONDS

log = structlog.get_logger("dicom_adapter.submit")

MAX_LOGGED = 3  # number of jobs whose failing requests are logged: if more jobs fail, the platform is the cause
JOBS_PER_STEP = 50  # number of started jobs whose status is requested in one step


class PlatformWatch:
    """Polls the platform for the status of started jobs, and records changes."""

    def __init__(
        self,
        name: str,
        submitter: Submitter[Any],
        submission: Submission,
        every: timedelta,
        resources: Resources,
        on_change: Callable[[Job], None],
        time_limit: TimeLimit | None = None,
    ) -> None:
        """Poll for the jobs of the submitter `name`. `submission` opens the submitter before its first use."""
        self._name = name
        self._submitter = submitter
        self._submission = submission
        self._every = every
        self._ledger, self._clock = resources.ledger, resources.clock
        self._on_change = on_change
        self._time_limit = time_limit  # None: the time of a run is not limited
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
        """Request the status of one job, and record it. A job that exceeds its time limit is passed to `TimeLimit`."""
        if self._time_limit is not None and self._time_limit.is_ending(row):
            self._record(row, None)
            return
        asked_at = self._clock.now()
        status = self._status(row.job)
        error = self._end_without_success(row.job, status)
        try:
            if error:
                changed = self._submission.fail(row, error, status)
            else:
                changed = self._record(row, status)
                self._end_at_limit(changed, status)
            self._submission.spans.polled(row.job, changed.job, asked_at)
        except IllegalTransition as refusal:  # an operator has cancelled the job
            log.info("job_changed_meanwhile", job_id=row.job.job_id, reason=str(refusal))

    def _record(self, row: JobRow, status: PlatformStatus | None) -> JobRow:
        """Record a poll, and what the platform has reported. Return the row of the job after it."""
        now = self._clock.now()
        with self._ledger.write() as transaction:
            jobs.mark_polled(transaction, row.number, now)
            if status is None:
                return row
            changed = jobs.change(transaction, row, **platform_values(status))
            if changed.job == row.job:
                return row
            events.record(transaction, [_platform_state(changed.job, status, now)])
        log.info("job_platform_state", job_id=row.job.job_id, state=status.state, detail=status.detail)
        self._on_change(changed.job)
        return changed

    def _end_without_success(self, job: Job, status: PlatformStatus | None) -> str:
        """Return why a running job has failed; "" if it runs or has succeeded."""
        if job.state is not JobState.RUNNING or status is None or not status.finished:
            return ""
        if status.succeeded is None:
            return (
                f"bug in submitter '{self._name}': `status` does not report whether the job has succeeded, which has "
                f"ended in state '{status.state}'"
            )
        if status.succeeded:
            return ""
        return f"it ended in state '{status.state}'" + (f": {status.detail}" if status.detail else "")

    def _end_at_limit(self, row: JobRow, status: PlatformStatus | None) -> None:
        """Pass the job to `TimeLimit` if it runs longer than its time limit."""
        has_ended = status is not None and status.finished
        if self._time_limit is None or has_ended or row.job.state is not JobState.RUNNING:
            return
        if self._time_limit.is_exceeded(row.job):
            self._time_limit.end(row)

    def _status(self, job: Job) -> PlatformStatus | None:
        try:
            status = _checked_status(self._submitter.status(job))
        except Permanent as failure:
            status = PlatformStatus(state="unknown", finished=True, detail=str(failure), succeeded=False)
        except Retriable as failure:
            self._note_failure(job, str(failure), is_bug=False)
            return None
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            self._note_failure(job, describe_failure(failure), is_bug=True)
            return None
        self._note_answer(job)
        return status

    def _note_failure(self, job: Job, reason: str, *, is_bug: bool) -> None:
        """Record a failed request. Log it if it is the first of this job, unless many jobs have failures."""
        self.health.failed(self._clock.now(), reason)
        if job.job_id not in self._failing and len(self._failing) < MAX_LOGGED:
            if is_bug:
                log.warning("platform_status_failed", job_id=job.job_id, reason=reason)
            else:
                log.info("platform_status_failed", job_id=job.job_id, reason=reason)
        self._failing.add(job.job_id)

    def _note_answer(self, job: Job) -> None:
        self.health.succeeded()
        if job.job_id in self._failing:
            self._failing.remove(job.job_id)
            if not self._failing:
                log.info("platform_status_recovered", submitter=self._name)


def _platform_state(job: Job, status: PlatformStatus, now: datetime) -> Event:
    detail = platform_event(status)
    return Event(at=now, event="job_platform_state", ae_title=job.ae_title, job_id=job.job_id, detail=detail)


def _checked_status(status: PlatformStatus) -> PlatformStatus:
    """Raise TypeError for a malformed status, before it is written to the ledger."""
    texts = isinstance(status, PlatformStatus) and isinstance(status.state, str) and isinstance(status.detail, str)
    if not texts or not isinstance(status.finished, bool) or status.succeeded not in (None, True, False):
        raise TypeError(
            "status must return PlatformStatus(state=<text>, finished=<bool>, detail=<text>, succeeded=<bool or None>)"
        )
    return status
