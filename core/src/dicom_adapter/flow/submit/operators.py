"""Step 5 (`submit`) of the flow: the operations of operators on jobs. The host finds the changed jobs in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.values import Job, JobPriority, JobState
from dicom_adapter.ledger import Ledger, Transaction, clean_ups, events, jobs, recorded_events
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import HELD, UNFINISHED, JobRow, is_on_platform
from dicom_adapter.runtime.clock import Clock

RETRY_NOW = {"attempts": 0, "failing_since": None, "next_attempt_at": None}
NEVER_BEGUN = {"begun": False}  # event detail of a job that was cancelled before its first step


def retry(ledger: Ledger, clock: Clock, job_id: str, by: str = "") -> Job:
    """Continue a faulted job with the step that failed, run a failed job again, or retry a postponed job now.

    `by`: name of the operator, for the event. Raises Refused for other jobs.
    """
    with ledger.write() as transaction:
        row = _find(transaction, job_id)
        job = row.job
        if job.state is JobState.FAILED:
            run = {"run": job.run + 1}
            clean_ups.insert(transaction, row)  # the operator needs nothing more of the failed run
            return _record(
                transaction,
                clock,
                jobs.begin_next_run(transaction, row, clock.now()),
                "job_retried",
                {**run, **_by(by)},
            ).job
        if job.state is JobState.FAULTED:
            values = {"state": job.faulted_in, "faulted_in": None, "last_error": ""}
        elif job.cancel_requested:
            raise Refused(f"job {job.job_id} is being cancelled")
        elif job.state in UNFINISHED and not is_on_platform(job):
            values = {}
        else:
            raise Refused(
                f"job {job.job_id} is {job.state.value}: only faulted, failed and postponed jobs can be retried"
            )
        return _change(transaction, clock, row, "job_retried", values, _by(by)).job


def cancel(ledger: Ledger, clock: Clock, job_id: str, by: str = "") -> Job:
    """Cancel an unfinished, faulted or failed job, here and on the platform. Raises Refused for other jobs.

    `by`: name of the operator, for the event.

    The instances of the job may then be reclaimed. A job that never began is cancelled immediately, because it does not
    exist on the platform.
    """
    with ledger.write() as transaction:  # read and write in one transaction: the host must not begin the job in between
        row = _find(transaction, job_id)
        job = row.job
        if job.state not in (*UNFINISHED, *HELD):
            raise Refused(f"job {job.job_id} is {job.state.value}: it cannot be cancelled any longer")
        state = JobState.RUNNING if job.state is JobState.FAILED else job.faulted_in or job.state
        values = {"state": state, "faulted_in": None, "cancel_requested": True}
        row = _change(transaction, clock, row, "job_cancel_requested", values, _by(by))
        if job.state is JobState.QUEUED and not job.repeated:
            row = _change(transaction, clock, row, "job_cancelled", {"state": JobState.CANCELLED}, NEVER_BEGUN)
    return row.job


def prioritize(ledger: Ledger, clock: Clock, job_id: str, priority: JobPriority, by: str = "") -> Job:
    """Change the priority of a job that does not exist on the platform yet. Raises Refused for other jobs.

    `by`: name of the operator, for the event.
    """
    with ledger.write() as transaction:
        row = _find(transaction, job_id)
        job = row.job
        is_waiting = job.state is JobState.QUEUED or (job.state, job.faulted_in) == (JobState.FAULTED, JobState.QUEUED)
        if not is_waiting or job.repeated:
            raise Refused(
                f"job {job.job_id} is {job.state.value}: the priority can be changed only before the first step begins"
            )
        changed = jobs.change(transaction, row, priority=priority)
        detail = {"priority": priority.value, "before": job.priority.value, **_by(by)}
        return _record(transaction, clock, changed, "job_prioritized", detail).job


def cancelled_at_once(transaction: Transaction, event_number: int) -> list[Job]:
    """Return the jobs that `cancel` has ended after event `event_number`: the host notifies observers of them."""
    ended = recorded_events.named_after(transaction, event_number, "job_cancelled")
    rows = [jobs.get(transaction, event.job_id) for event in ended if event.job_id and event.detail == NEVER_BEGUN]
    return [row.job for row in rows if row is not None]


def _by(name: str) -> dict[str, object]:
    return {"by": name} if name else {}


def _find(transaction: Transaction, job_id: str) -> JobRow:
    row = jobs.get(transaction, job_id)
    if row is None:
        raise Refused(f"there is no job {job_id}")
    return row


def _change(
    transaction: Transaction,
    clock: Clock,
    row: JobRow,
    event: str,
    values: Mapping[str, Any],
    detail: Mapping[str, object] = MappingProxyType({}),
) -> JobRow:
    changed = jobs.change(transaction, row, changed_at=clock.now(), **RETRY_NOW, **values)
    return _record(transaction, clock, changed, event, detail)


def _record(transaction: Transaction, clock: Clock, row: JobRow, event: str, detail: Mapping[str, object]) -> JobRow:
    change = Event(at=clock.now(), event=event, ae_title=row.job.ae_title, job_id=row.job.job_id, detail=detail)
    events.record(transaction, [change])
    return row
