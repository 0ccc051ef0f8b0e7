"""Step 5 (`submit`) of the flow: end the jobs that have run longer than `time-limit`.

`status_watch` finds these jobs, and passes them to `TimeLimit.end`. They are cancelled on a thread of their own: a
platform that hangs in a cancellation delays neither the polls nor the steps of other jobs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import structlog

from dicom_adapter.api.errors import IllegalTransition, Permanent, Retriable, describe_failure
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import Job
from dicom_adapter.flow.submit.submission import Submission
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.submit")


class TimeLimit:
    """The limit for the runs of one submitter's jobs. `step` is called by one thread, the other methods by others."""

    def __init__(
        self,
        limit: timedelta,
        submitter: Submitter[Any],
        submission: Submission,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        """`limit`: from the start of a run. `wake` causes a call of `step`."""
        self._limit = limit
        self._submitter = submitter
        self._submission = submission
        self._clock = clock
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[JobRow] = deque()
        self._ending: set[int] = set()  # the numbers of the waiting jobs, and of the job that is being cancelled
        self._logged: set[str] = set()  # ids of the jobs whose failed cancellation was logged

    def is_exceeded(self, job: Job) -> bool:
        """Return whether a running job has run too long."""
        return job.started_at is not None and self._clock.now() - job.started_at >= self._limit

    def is_ending(self, row: JobRow) -> bool:
        """Return whether the job waits for its cancellation, or is being cancelled: it must not be polled meanwhile."""
        with self._lock:
            return row.number in self._ending

    def end(self, row: JobRow) -> None:
        """Cancel this job soon, and record that it has failed."""
        with self._lock:
            self._waiting.append(row)
            self._ending.add(row.number)
        self._wake()

    def step(self) -> None:
        """Cancel the waiting jobs."""
        while self._waiting:
            row = self._waiting.popleft()
            try:
                self._end(row)
            finally:
                with self._lock:
                    self._ending.discard(row.number)  # if the job still runs, the next poll finds it again

    def _end(self, row: JobRow) -> None:
        job = row.job
        try:
            self._submitter.cancel(job)
        except KeyboardInterrupt:
            raise
        except Retriable as failure:
            if job.job_id not in self._logged:
                log.info("job_cancel_postponed", job_id=job.job_id, reason=str(failure))
            self._logged.add(job.job_id)
            return
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            if self._submission.is_closing:
                return
            reason = str(failure) if isinstance(failure, Permanent) else describe_failure(failure)
            log.warning("job_cancel_refused", job_id=job.job_id, reason=reason)
        self._logged.discard(job.job_id)
        limit = f"{self._limit.total_seconds():g}"
        error = f"it had not ended {limit} seconds after its start (time-limit), and was cancelled"
        try:
            self._submission.fail(row, error, None)
        except IllegalTransition as refusal:  # an operator has cancelled the job
            log.info("job_changed_meanwhile", job_id=job.job_id, reason=str(refusal))
