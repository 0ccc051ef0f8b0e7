"""Step 5 (`submit`) of the flow: the spans of a job's steps on the platform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from attrs import frozen

from dicom_adapter.api.errors import LedgerError
from dicom_adapter.api.values import SOURCE_JOB, Job, JobState
from dicom_adapter.ledger import trace_contexts
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.traces import Span

STEPS = {
    JobState.QUEUED: "create",
    JobState.CREATED: "add metadata",
    JobState.METADATA_SENT: "upload",
    JobState.UPLOADED: "start",
    JobState.RUNNING: "collect",
}


@frozen
class StepSpans:
    """Spans of jobs. Thread-safe. While traces are off, nothing is read."""

    resources: Resources

    @contextmanager
    def step(self, row: JobRow) -> Iterator[Callable[[JobRow], None]]:
        """Context manager: record the span of one step. Yields a function: call it with the row after the step."""
        if not self.resources.traces.is_on:
            yield _ignore
            return
        with self.resources.traces.span(_name(row.job), parent=self._context(row.job)) as span:
            span.set(step="cancel" if row.job.cancel_requested else STEPS[row.job.state])
            yield lambda after: _describe(span, row.job, after.job)

    def polled(self, before: Job, after: Job, since: datetime) -> None:
        """Record the span of a poll that has changed a job. Other polls have no span: there are too many."""
        traces = self.resources.traces
        if traces.is_on and before != after:
            span = traces.start("poll", parent=self._context(before), at=since)
            _describe(span, before, after)
            span.end(self.resources.clock.now())

    def _context(self, job: Job) -> str:
        """Return the context of a job; of a delivery job, that of the job with the results."""
        try:
            with self.resources.ledger.read() as transaction:
                return trace_contexts.find(transaction, job.metadata.get(SOURCE_JOB, job.job_id))
        except LedgerError:  # the step will report it
            return ""


def _name(job: Job) -> str:
    if SOURCE_JOB in job.metadata:
        return "deliver"
    return "result" if job.state is JobState.RUNNING and not job.cancel_requested else "submit"


def _describe(span: Span, before: Job, after: Job) -> None:
    span.set(ae_title=after.ae_title, job_id=after.job_id, submitter=after.submitter, state=after.state.value)
    if after.state in (JobState.FAULTED, JobState.FAILED):
        span.fail(after.state.value)
    elif after.attempts > before.attempts:
        span.set(attempts=after.attempts)
        span.fail("retried")


def _ignore(_after: JobRow) -> None:
    """Do nothing: traces are off."""
