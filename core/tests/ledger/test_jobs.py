"""Jobs in the ledger: their order, their changes, and their missing uploads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from attrs import evolve
from sqlalchemy import func, select

from dicom_adapter import InstanceStorageInfo, Job, JobPriority, JobState
from dicom_adapter.api.errors import IllegalTransition, RowRejected
from dicom_adapter.ledger import Ledger, instances, jobs
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.ledger.schema import job_instances

MakeInstance = Callable[..., InstanceStorageInfo]
MakeJob = Callable[..., Job]


@pytest.fixture
def enter(ledger: Ledger, an_instance: MakeInstance, a_job: MakeJob) -> Callable[..., JobRow]:
    """Return a function that inserts a job of new instances in a separate transaction."""

    def insert(count: int = 1, **values: object) -> JobRow:
        with ledger.write() as transaction:
            numbers = [instances.insert(transaction, an_instance()).instance_id for _ in range(count)]
            job = a_job(instance_count=count, **values)
            return JobRow(number=jobs.insert(transaction, job, numbers), job=job, failing_since=None)

    return insert


Enter = Callable[..., JobRow]


def test_a_job_is_read_as_it_was_inserted(ledger: Ledger, enter: Enter) -> None:
    """Every field is read as it was written, with any names in the metadata."""
    row = enter(metadata={"Source": "LUNG (by-study)", "Größe": "1\n2"}, priority=JobPriority.IMMEDIATE)
    with ledger.read() as transaction:
        assert row == jobs.get(transaction, row.job.job_id)
        assert [row] == jobs.newest(transaction, 10)
        assert jobs.get(transaction, "f" * 32) is None


def test_the_queue_heads_are_the_oldest_jobs_of_each_ae_title_and_priority(ledger: Ledger, enter: Enter) -> None:
    """Choosing the next job reads only a few rows, however many jobs there are."""
    first = {
        (ae_title, priority): min(
            (enter(ae_title=ae_title, priority=priority) for _n in range(3)), key=lambda row: row.number
        )
        for ae_title in ("LUNG", "HEAD")
        for priority in JobPriority
    }
    with ledger.read() as transaction:
        heads = jobs.queue_heads(transaction, "platform", enter().job.created_at)
    assert sorted(row.number for row in first.values()) == sorted(row.number for row in heads)


def test_only_jobs_that_can_continue_now_are_due(ledger: Ledger, enter: Enter) -> None:
    """Jobs of other submitters, and finished, held, postponed and excluded jobs, are not due.

    A running job is due when it has ended on the platform, or when an operator has cancelled it.
    """
    values_by_state = {JobState.RUNNING: {"platform_finished": True}}
    ready = [enter(state=state, ae_title=state.name, **values_by_state.get(state, {})) for state in jobs.UNFINISHED]
    ready.append(enter(state=JobState.RUNNING, ae_title="LAST", cancel_requested=True))
    now = ready[0].job.created_at
    for state in (JobState.RUNNING, *jobs.HELD, *jobs.FINISHED):
        enter(state=state)
    enter(submitter="other")
    soon, later = enter(next_attempt_at=now + timedelta(seconds=1)), enter(next_attempt_at=now + timedelta(seconds=9))
    just_due, excluded = enter(next_attempt_at=now, ae_title="DUE"), enter(ae_title="EXCLUDED")
    with ledger.read() as transaction:
        assert [*ready, just_due] == jobs.queue_heads(transaction, "platform", now, {excluded.number})
        assert soon in jobs.queue_heads(transaction, "platform", None, {excluded.number})
        assert soon.job.next_attempt_at == jobs.next_attempt(transaction, "platform", now)
        assert later.job.next_attempt_at == jobs.next_attempt(transaction, "platform", now + timedelta(seconds=1))
        assert jobs.next_attempt(transaction, "platform", now + timedelta(seconds=9)) is None


def test_a_next_attempt_or_poll_that_is_too_far_in_the_future_is_due(ledger: Ledger, enter: Enter) -> None:
    """The clock was put back after the time was written: the job must not wait for that time.

    Verified to fail when only times up to the present are due.
    """
    now = enter(submitter="other").job.created_at
    minute = timedelta(minutes=1)
    within, beyond = enter(next_attempt_at=now + minute), enter(next_attempt_at=now + 2 * minute, ae_title="HEAD")
    polled, polled_in_future = enter(state=JobState.SUBMITTED), enter(state=JobState.SUBMITTED)
    with ledger.write() as transaction:
        jobs.mark_polled(transaction, polled.number, now - minute / 2)
        jobs.mark_polled(transaction, polled_in_future.number, now + minute)
    with ledger.read() as transaction:
        assert [beyond] == jobs.queue_heads(transaction, "platform", now, latest=now + minute)
        assert [within] == jobs.queue_heads(transaction, "platform", now + minute, latest=now + 2 * minute)
        assert [polled_in_future.number] == [
            row.number for row in jobs.due_for_polling(transaction, "platform", now - minute, now, 50)
        ]


def test_a_change_is_written_and_returned(ledger: Ledger, enter: Enter) -> None:
    """`change` returns the job as the ledger stores it."""
    row = enter()
    moment = row.job.created_at + timedelta(microseconds=1)
    with ledger.write() as transaction:
        changed = jobs.change(
            transaction, row, state=JobState.CREATED, platform_job_id="x", changed_at=moment, failing_since=moment
        )
    job = evolve(row.job, state=JobState.CREATED, platform_job_id="x", changed_at=moment)
    assert JobRow(number=row.number, job=job, failing_since=moment) == changed
    with ledger.read() as transaction:
        assert changed == jobs.get(transaction, row.job.job_id)


def test_a_change_is_refused_after_the_next_run_has_begun(ledger: Ledger, enter: Enter) -> None:
    """A late status of the first run must not end the second run. Verified to fail when only the state is compared."""
    row = enter(state=JobState.RUNNING)
    with ledger.write() as transaction:
        failed = jobs.change(transaction, row, state=JobState.FAILED)
        again = jobs.begin_next_run(transaction, failed, failed.job.changed_at)
        jobs.change(transaction, again, state=JobState.RUNNING)
    with pytest.raises(IllegalTransition), ledger.write() as late:
        jobs.change(late, row, state=JobState.FAILED)


def test_a_change_is_refused_after_the_state_has_changed(ledger: Ledger, enter: Enter) -> None:
    """A change that is based on an outdated row writes nothing."""
    row = enter()
    with ledger.write() as transaction:
        cancelled = jobs.change(transaction, row, state=JobState.CANCELLED)
    with pytest.raises(IllegalTransition, match=f"job {row.job.job_id} is no longer queued"), ledger.write() as late:
        jobs.change(late, row, state=JobState.CREATED, platform_job_id="x")
    with ledger.read() as transaction:
        assert cancelled == jobs.get(transaction, row.job.job_id)


def test_the_instances_of_a_job_keep_their_order_and_their_uploads(ledger: Ledger, enter: Enter) -> None:
    """Positions count from 0; instances marked as uploaded are no longer missing."""
    row = enter(4)
    with ledger.write() as transaction:
        jobs.mark_uploaded(transaction, row.number, [0, 2])
        members = instances.of_job(transaction, row.number, missing_only=False)
        assert [0, 1, 2, 3] == [position for position, _instance in members]
        assert [members[1], members[3]] == instances.of_job(transaction, row.number, missing_only=True)
        assert [member.instance_id for _position, member in members] == jobs.instance_ids(transaction, row.number)


def test_a_job_of_an_unknown_instance_is_not_inserted(ledger: Ledger, a_job: MakeJob) -> None:
    """A job and its instances are inserted together, or not at all."""
    with pytest.raises(RowRejected), ledger.write() as transaction:
        jobs.insert(transaction, a_job(), [999])
    with ledger.read() as transaction:
        assert [] == jobs.newest(transaction, 10)
        assert 0 == transaction.execute(select(func.count()).select_from(job_instances)).scalar()


def test_jobs_are_found_by_the_beginning_of_their_id(ledger: Ledger, enter: Enter) -> None:
    """Special characters of a LIKE pattern have no meaning in a prefix."""
    older, newer = enter(job_id="ab" + "0" * 30), enter(job_id="ac" + "0" * 30)
    with ledger.read() as transaction:
        assert [older, newer] == jobs.with_prefix(transaction, "a", 2)
        assert [older] == jobs.with_prefix(transaction, "a", 1)
        assert [newer] == jobs.with_prefix(transaction, "ac", 2)
        assert [] == jobs.with_prefix(transaction, "%", 2)


def test_the_newest_jobs_are_found_by_state_and_ae_title(ledger: Ledger, enter: Enter) -> None:
    """The newest job is first."""
    old, faulted, other = enter(), enter(state=JobState.FAULTED), enter(ae_title="LIVER")
    with ledger.read() as transaction:
        assert [other, faulted, old] == jobs.newest(transaction, 10)
        assert [other] == jobs.newest(transaction, 1)
        assert [faulted] == jobs.newest(transaction, 10, states=[JobState.FAULTED, JobState.CANCELLED])
        assert [faulted, old] == jobs.newest(transaction, 10, filters=Filters(ae_title="LUNG"))
