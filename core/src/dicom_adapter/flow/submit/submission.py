"""Step 5 (`submit`) of the flow: run the steps of jobs with one submitter, and record their results in the ledger."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from attrs import frozen

from dicom_adapter.api.errors import (
    NO_RESOURCES_TEXT,
    IllegalTransition,
    LedgerError,
    Permanent,
    Retriable,
    StorageUnavailable,
    describe_failure,
)
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import Job, JobState, PlatformStatus
from dicom_adapter.flow.submit.job_measures import JobMeasures
from dicom_adapter.flow.submit.scheduling import Retries
from dicom_adapter.flow.submit.step_spans import StepSpans
from dicom_adapter.flow.submit.steps import NEXT, CannotRead, Done, PlatformContact, Steps
from dicom_adapter.flow.submit.uploading import Interrupted, lacks_resources
from dicom_adapter.ledger import Transaction, clean_ups, events, jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.plugins.measured import unwrap
from dicom_adapter.runtime.measures import JOB_RETRIES
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.submit")

OPENING_SECONDS = 2.0  # limit for `close` to wait for an `open` in progress
NO_FAILURES = {"attempts": 0, "failing_since": None, "next_attempt_at": None, "last_error": ""}

NO_EVENTS: Mapping[str, Mapping[str, object]] = {}


@frozen
class StepResult:
    """The result of a step."""

    row: JobRow  # row of the job after the step
    platform: PlatformContact
    error: str = ""  # error of the step; "" if it was successful


class Submission:
    """Runs the steps of jobs with one submitter. Thread-safe for different jobs."""

    def __init__(
        self,
        submitter: Submitter[Any],
        steps: Steps,
        retries: Retries,
        resources: Resources,
        on_change: Callable[[Job], None],
    ) -> None:
        self._submitter = submitter
        self._steps = steps
        self._retries = retries
        self._ledger, self._clock = resources.ledger, resources.clock
        self._find_problem = resources.problem
        self._counts, self._measures = resources.counts, JobMeasures(resources.counts)
        self.spans = StepSpans(resources)
        self._on_change = on_change
        self._opening = threading.Lock()
        self._is_open = False
        self._is_closing = False

    def open(self) -> None:
        """Open the submitter if it is not open. Call this method before each use of the submitter.

        Raises StorageUnavailable while the storage or the ledger is missing: the submitter would create its data folder
        on a disk that is not mounted.
        """
        with self._opening:
            if not self._is_open:
                problem = self._find_problem()
                if problem:
                    raise StorageUnavailable(problem)
                self._submitter.open()
                self._is_open = True

    @property
    def is_closing(self) -> bool:
        """True after `close`: errors of calls in progress are a consequence."""
        return self._is_closing

    def close(self) -> None:
        """Close the submitter. Steps in progress may raise Interrupted."""
        self._is_closing = True
        if not self._opening.acquire(timeout=OPENING_SECONDS):
            return  # `open` hangs; there is nothing to close yet
        was_open, self._is_open = self._is_open, False
        self._opening.release()
        if not was_open:
            return
        try:
            self._submitter.close()
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            log.warning("submitter_close_failed", submitter=self._submitter.name, error=describe_failure(failure))

    def run_step(self, row: JobRow) -> StepResult:
        """Run one step on the platform, or one batch of uploads, then record the result in the ledger.

        Raises Interrupted if the service stops; then no result is recorded.
        """
        with self.spans.step(row) as describe:
            result = self._run_step(row)
            describe(result.row)
            return result

    def _run_step(self, row: JobRow) -> StepResult:
        try:
            begun = self._begin_step(row)
        except LedgerError as failure:
            return StepResult(self._postpone(row, str(failure)), PlatformContact.UNKNOWN)
        try:
            done = self._steps.run(row)
        except (Interrupted, IllegalTransition, KeyboardInterrupt):
            raise
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            return self._end_failed(begun, failure)
        completed = self._complete(begun, done)
        return StepResult(completed, done.platform)

    def fail(self, row: JobRow, error: str, status: PlatformStatus | None) -> JobRow:
        """Record that the run of a job has ended without success. `status`: the last status that the platform reported.

        Return the changed row of the job. Raises IllegalTransition if the job has changed meanwhile, and LedgerError.
        """
        values = {**NO_FAILURES, "last_error": error}
        further_events = {}
        if status is not None:
            values |= platform_values(status)
            further_events = {"job_platform_state": platform_event(status)}
        return self._change(row, "job_failed", JobState.FAILED, values, further_events)

    def _end_failed(self, row: JobRow, failure: BaseException) -> StepResult:
        """Record the failure of a step: the job is postponed if a retry may help, otherwise it becomes faulted."""
        if lacks_resources(failure):
            error = f"{NO_RESOURCES_TEXT} ({type(failure).__name__})"
            return StepResult(self._postpone(row, error), PlatformContact.UNKNOWN)
        if isinstance(failure, (CannotRead, LedgerError)):  # probably transient, and not caused by this job
            return StepResult(self._postpone(row, str(failure)), PlatformContact.UNKNOWN)
        if isinstance(failure, Retriable):
            return StepResult(self._postpone(row, str(failure)), PlatformContact.FAILED, str(failure))
        if isinstance(failure, Permanent):
            return StepResult(self._fault(row, str(failure)), PlatformContact.UNKNOWN)
        if self._is_closing:
            raise Interrupted from failure
        # A bug: a retry would not help.
        error = f"bug in submitter '{row.job.submitter}': {describe_failure(failure)}"
        return StepResult(self._fault(row, error), PlatformContact.UNKNOWN)

    def _begin_step(self, row: JobRow) -> JobRow:
        """Record in the ledger that the step has begun, if that is not recorded yet."""
        if row.job.repeated:
            return row
        with self._ledger.write() as transaction:
            return jobs.change(transaction, row, repeated=True)

    def _complete(self, row: JobRow, done: Done) -> JobRow:
        """Record the success of a step, or of one batch of uploads."""
        if not done.is_complete:
            return self._clear_failures(row) if done.has_progress else row
        state = done.state or NEXT[row.job.state]
        values = {**NO_FAILURES, **done.values, "last_error": done.error, "repeated": False}
        ends = state in (JobState.SUCCEEDED, JobState.CANCELLED)
        commit = partial(self._commit_end, done) if ends else done.results.commit
        try:
            changed = self._change(row, _event_name(state), state, values, done.further_events, commit)
        except Exception:
            done.results.abandoned()
            raise
        done.results.committed()
        return changed

    def _commit_end(self, done: Done, transaction: Transaction, row: JobRow) -> None:
        """Write the results of a job; if the platform had the job, record the clean-up of its run, too."""
        done.results.commit(transaction, row)
        if row.job.platform_job_id and _has_clean_up(self._submitter):
            clean_ups.insert(transaction, row)

    def _clear_failures(self, row: JobRow) -> JobRow:
        if not row.job.attempts:
            return row
        with self._ledger.write() as transaction:
            return jobs.change(transaction, row, **NO_FAILURES)

    def _postpone(self, row: JobRow, error: str) -> JobRow:
        if self._is_closing:
            raise Interrupted
        now = self._clock.now()
        attempts, since = row.job.attempts + 1, min(now, row.failing_since or now)
        when = self._retries.next_attempt(attempts, since, now, random.random())  # noqa: S311 - spreads load, no secret
        if when is None:
            return self._fault(row, f"gave up after {attempts} attempts since {since:%Y-%m-%d %H:%M:%S} UTC: {error}")
        values = {"attempts": attempts, "failing_since": since, "next_attempt_at": when, "last_error": error}
        self._counts.tally(JOB_RETRIES, row.job.ae_title, row.job.submitter).add()
        return self._change(row, "job_attempt_failed", row.job.state, values)

    def _fault(self, row: JobRow, error: str) -> JobRow:
        faulted_in = row.job.state
        values = {"attempts": row.job.attempts + 1, "next_attempt_at": None, "last_error": error}
        values |= {"faulted_in": faulted_in}  # `cancel_requested` stays: a retry continues with the cancellation
        return self._change(row, "job_faulted", JobState.FAULTED, values)

    def _change(
        self,
        row: JobRow,
        event: str,
        state: JobState,
        values: Mapping[str, Any],
        further_events: Mapping[str, Mapping[str, object]] = NO_EVENTS,
        commit: Callable[[Transaction, JobRow], None] | None = None,
    ) -> JobRow:
        """Record a change, its events, and in the same transaction what `commit` writes."""
        now = self._clock.now()
        with self._ledger.write() as transaction:
            changed = jobs.change(transaction, row, state=state, changed_at=now, **values)
            if commit is not None:
                commit(transaction, row)
            for name, detail in further_events.items():
                events.record(transaction, [_event(now, name, changed.job, detail)])
            _record(transaction, now, event, changed.job)
        level = "warning" if changed.job.last_error else "info"
        getattr(log, level)(
            event,
            job_id=changed.job.job_id,
            ae_title=changed.job.ae_title,
            attempts=changed.job.attempts or None,
            error=changed.job.last_error,
        )
        if changed.job.state is not row.job.state:
            self._measures.changed(changed.job)
            self._on_change(changed.job)
        return changed


def _has_clean_up(submitter: Submitter[Any]) -> bool:
    """Return whether the submitter overrides `clean_up`. If not, nothing is recorded for it."""
    return getattr(unwrap(submitter).clean_up, "__func__", None) is not Submitter.clean_up


def platform_values(status: PlatformStatus) -> dict[str, Any]:
    """Return the fields of Job with the status that the platform reports."""
    return {
        "platform_state": status.state,
        "platform_detail": status.detail,
        "platform_finished": status.finished,
    }


def platform_event(status: PlatformStatus) -> dict[str, object]:
    """Return the detail of the event `job_platform_state`."""
    return {"state": status.state, "message": status.detail}


def _event_name(state: JobState) -> str:
    """Return the name of the event after a successful step. A job is submitted, whether or not it is followed."""
    reached = JobState.SUBMITTED if state is JobState.RUNNING else state
    return f"job_{reached.value.replace('-', '_')}"


def _record(transaction: Transaction, now: datetime, event: str, job: Job) -> None:
    detail: dict[str, object] = {"error": job.last_error} if job.last_error else {}
    if job.next_attempt_at is not None:
        detail["next_attempt_at"] = job.next_attempt_at.isoformat()
    events.record(transaction, [_event(now, event, job, detail)])


def _event(now: datetime, event: str, job: Job, detail: Mapping[str, object]) -> Event:
    return Event(at=now, event=event, ae_title=job.ae_title, job_id=job.job_id, detail=detail)
