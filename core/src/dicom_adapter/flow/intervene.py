"""Part of step 5: what an operator may do with a job. The host notices it in the ledger and acts."""

from __future__ import annotations

from typing import Any

from dicom_adapter.clock import Clock
from dicom_adapter.errors import Refused
from dicom_adapter.ledger import Ledger, events, jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import UNFINISHED, JobRow
from dicom_adapter.model import Job, JobState

AT_ONCE = {"attempts": 0, "failing_since": None, "next_attempt_at": None}


def retry(ledger: Ledger, clock: Clock, job_id: str) -> Job:
    """Let a faulted job go on with the step that failed, or a postponed one try again at once. Raises Refused."""
    row = _find(ledger, job_id)
    if row.job.state is JobState.FAULTED:
        assert row.job.faulted_in is not None  # written with the state
        return _change(ledger, clock, row, "job_retried", state=row.job.faulted_in, faulted_in=None, last_error="")
    if row.job.cancel_requested:
        raise Refused(f"job {row.job.job_id} is being cancelled")
    if row.job.state in UNFINISHED:
        return _change(ledger, clock, row, "job_retried")
    raise Refused(f"job {row.job.job_id} is {row.job.state.value}: only faulted and postponed jobs can be retried")


def cancel(ledger: Ledger, clock: Clock, job_id: str) -> Job:
    """Give a job up, here and on the platform; its instances may be reclaimed. Raises Refused once it is submitted."""
    row = _find(ledger, job_id)
    if row.job.state not in (*UNFINISHED, JobState.FAULTED):
        raise Refused(f"job {row.job.job_id} is {row.job.state.value}: it can be cancelled no longer")
    state = row.job.faulted_in or row.job.state
    return _change(ledger, clock, row, "job_cancel_requested", state=state, faulted_in=None, cancel_requested=True)


def _find(ledger: Ledger, job_id: str) -> JobRow:
    with ledger.read() as transaction:
        row = jobs.get(transaction, job_id)
    if row is None:
        raise Refused(f"there is no job {job_id}")
    return row


def _change(ledger: Ledger, clock: Clock, row: JobRow, event: str, **values: Any) -> Job:
    now = clock.now()
    with ledger.write() as transaction:
        changed = jobs.change(transaction, row, changed_at=now, **AT_ONCE, **values)
        happened = Event(at=now, event=event, ae_title=row.job.ae_title, job_id=row.job.job_id)
        events.record(transaction, [happened])
    return changed.job
