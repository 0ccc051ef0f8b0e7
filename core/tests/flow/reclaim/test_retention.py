"""Retention: rows of finished instances and jobs are deleted after some days and counted. Needed rows are kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from sqlalchemy import text

from dicom_adapter import AssociationStatus, InstanceStorageInfo, Job, JobPriority, JobState, Permanent
from dicom_adapter.dicom.synthetic import make_instance, make_study
from dicom_adapter.flow.reclaim import retention
from dicom_adapter.flow.reclaim.retention import EVERY, Retention
from dicom_adapter.ledger import (
    Ledger,
    balance,
    clean_ups,
    events,
    history,
    instances,
    jobs,
    recorded_events,
    senders,
    series,
)
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.history import BEGINNING
from dicom_adapter.ledger.instances import UNNUMBERED
from dicom_adapter.ledger.schema import InstanceOutcome
from dicom_adapter.ledger.senders import Rejected
from dicom_adapter.ledger.series import ArrivedSeries
from dicom_adapter.testing import Adapter, VirtualClock

MakeAdapter = Callable[..., Adapter]

DAY_S = 86_400
CONFIGURATION = """
[ledger]
history-days = {days}
[submitters.platform]
type = "memory"
{platform}
[ae-titles.LUNG]
processor = "by-study"
overwrite-same-instance = true
[ae-titles.LUNG.settings]
timeout = {timeout}
pipeline-one = "p1"
pipeline-two = "p2"
"""


def configured(days: float = 2, timeout: int = 5, platform: str = "") -> str:
    return CONFIGURATION.format(days=days, timeout=timeout, platform=platform)


def rows(adapter: Adapter) -> dict[str, int]:
    """Return the number of rows of each table."""
    with adapter.ledger.read() as transaction:
        tables = ("instances", "jobs", "job_instances", "events")
        counts = {table: transaction.execute(text(f"SELECT count(*) FROM {table}")).scalar() for table in tables}
        return {table: number for table, number in counts.items() if number}


def account(adapter: Adapter) -> balance.Account:
    with adapter.ledger.read() as transaction:
        (found,) = balance.load_accounts(transaction)
    return found


def pass_days(adapter: Adapter, days: float) -> None:
    """Advance the clock by days at once, then by some minutes in which the host deletes old rows."""
    adapter.clock.advance(days * DAY_S)
    adapter.advance(EVERY.total_seconds() + 10)


def with_history(adapter: Adapter, studies: int = 3) -> Adapter:
    """Submit this many studies of two instances as two jobs each, and reclaim them."""
    for _study in range(studies):
        uid = make_instance().StudyInstanceUID
        adapter.receive(*[make_instance(study_uid=uid) for _number in range(2)], ae_title="LUNG")
    adapter.advance(5)
    assert {"reclaimed": 2 * studies} == adapter.states
    return adapter


def test_finished_rows_are_deleted_after_the_configured_days_and_counted(make_adapter: MakeAdapter) -> None:
    """Instances, jobs and events are deleted. The account is the same before and after.

    Verified to fail when deleted rows are not counted.
    """
    adapter = with_history(make_adapter(configured()))
    before, held = account(adapter), rows(adapter)
    pass_days(adapter, 1.9)
    assert held == rows(adapter)
    pass_days(adapter, 0.1)
    assert {} == rows(adapter)
    assert before == account(adapter)
    assert (6, {InstanceOutcome.SUBMITTED: 6}, 0) == (before.received, before.reclaimed, before.difference)


def test_series_are_deleted_after_the_last_instance_of_their_study(make_adapter: MakeAdapter) -> None:
    """The series of quarantined instances are kept, and so are recent series, on which receivers rely.

    Verified to fail when neither `old_series` nor `delete_series` looks for instances.
    """
    adapter = with_history(make_adapter(configured()))
    adapter.receive(*make_study(instances=1), ae_title="LUNG")  # pending
    with adapter.ledger.write() as transaction:
        recent = ArrivedSeries("2.25.1", "2.25.2", "P1")
        series.enter(transaction, [recent], adapter.clock.now() + timedelta(days=2))
        assert 6 + 1 + 1 == len(transaction.execute(text("SELECT * FROM series")).all())
        transaction.execute(text("UPDATE instances SET state = 'quarantined' WHERE state = 'pending'"))
    pass_days(adapter, 2)
    with adapter.ledger.read() as transaction:
        kept = transaction.execute(text("SELECT study_instance_uid FROM series")).scalars().all()
        held = transaction.execute(text("SELECT study_instance_uid FROM instances")).scalars().all()
    assert {*held, "2.25.2"} == set(kept)


def test_series_is_kept_if_an_instance_arrives_before_it_is_deleted(make_adapter: MakeAdapter) -> None:
    """Verified to fail when `delete_series` does not look for instances."""
    adapter = make_adapter(configured())
    now = adapter.clock.now()
    with adapter.ledger.write() as transaction:
        series.enter(transaction, [ArrivedSeries("2.25.1", "2.25.2", "P1")], now)
        page = history.old_series(transaction, now + timedelta(seconds=1), BEGINNING, 10)
        assert 1 == len(page.keys)
        instances.insert(transaction, evolve(an_instance(adapter.clock), study_instance_uid="2.25.2"))
        assert 0 == history.delete_series(transaction, page.keys)


def test_old_rejections_are_deleted(make_adapter: MakeAdapter) -> None:
    """They are kept as long as the history."""
    adapter = make_adapter(configured())
    now = adapter.clock.now()
    rejected = Rejected(
        peer_address="10.0.0.7",
        calling_ae_title="CT1",
        ae_title="LUNGG",
        cause="called-ae-title",
        reason="unknown",
        count=1,
        first_at=now,
        last_at=now,
    )
    with adapter.ledger.write() as transaction:
        senders.add_rejections(transaction, [rejected])
    pass_days(adapter, 1.9)
    with adapter.ledger.read() as transaction:
        assert 1 == len(senders.rejected(transaction, now))
    pass_days(adapter, 0.2)
    with adapter.ledger.read() as transaction:
        assert [] == senders.rejected(transaction, now)


def test_counts_of_unreleased_associations_are_deleted_after_a_year(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of a sender that ends its associations without a release is kept as long as its other statistics.

    Their number has a limit, too, because a peer may use any number of AE titles. Verified to fail when `delete_old`
    does not delete them.
    """

    def remaining() -> list[str]:
        with adapter.ledger.read() as transaction:
            return list(transaction.execute(text("SELECT calling_ae_title FROM unreleased_associations")).scalars())

    adapter = make_adapter(configured())
    for name in ("CT1", "CT2", "CT3"):
        adapter.receive(make_instance(), calling_ae_title=name, status=AssociationStatus.ABORTED)
        pass_days(adapter, 100)
    assert ["CT1", "CT2", "CT3"] == remaining()
    monkeypatch.setattr(senders, "MOST_SENDERS", 2)
    pass_days(adapter, 1)
    assert ["CT2", "CT3"] == remaining()
    pass_days(adapter, 166)
    assert ["CT3"] == remaining()


def test_needed_rows_are_never_deleted(make_adapter: MakeAdapter) -> None:
    """Pending and quarantined instances and those of faulted jobs are kept for years, with objects, jobs and events."""
    adapter = with_history(make_adapter(configured()))
    adapter.platform.fail("start", Permanent("refused"), pipeline_id="p2")
    adapter.receive(*make_study(instances=2), ae_title="LUNG")
    adapter.advance(5)
    assert {"reclaimed": 6, "released": 2} == adapter.states
    quarantined = adapter.receive(make_instance(seed="quarantined"), ae_title="LUNG")[0].instance
    assert quarantined is not None
    with adapter.ledger.write() as transaction:
        instances.quarantine(transaction, quarantined.instance_id, "test", adapter.clock.now())
    pass_days(adapter, 800)

    assert {"released": 2, "quarantined": 1} == adapter.states
    assert [JobState.SUBMITTED, JobState.FAULTED] == [job.state for job in adapter.jobs]
    with adapter.ledger.read() as transaction:
        names = [event.event for job in adapter.jobs for event in recorded_events.of_job(transaction, job.job_id)]
    assert ["job_submitted", "job_faulted"] == [event for event in names if event in ("job_submitted", "job_faulted")]
    assert (9, 2, 0) == (account(adapter).received, account(adapter).held, account(adapter).difference)
    assert 3 == len(list(adapter.storage.keys()))


def test_an_instance_is_kept_as_long_as_its_job(make_adapter: MakeAdapter) -> None:
    """A platform that is polled has twice the days to report the end of a job. After that, the job is deleted, too."""
    adapter = with_history(make_adapter(configured(platform="status-every = 3600")))
    pass_days(adapter, 3)
    assert {"instances": 6, "jobs": 6, "job_instances": 12} == {
        table: number for table, number in rows(adapter).items() if table != "events"
    }
    pass_days(adapter, 1)
    assert {} == rows(adapter)


def test_a_job_is_deleted_when_the_platform_has_reported_its_end(make_adapter: MakeAdapter) -> None:
    """The instances of the job are deleted together with the job."""
    adapter = with_history(make_adapter(configured(platform="status-every = 3600")))
    with adapter.ledger.write() as transaction:
        for row in jobs.newest(transaction, 9):
            jobs.change(transaction, row, platform_finished=True)
    pass_days(adapter, 2)
    assert {} == rows(adapter)


def test_a_job_is_kept_until_all_its_instances_are_reclaimed(make_adapter: MakeAdapter) -> None:
    """The outcome of an instance is derived from its jobs.

    Verified to fail when the job is deleted (then the instance counts as unused).
    """
    adapter = make_adapter(configured())
    with adapter.ledger.write() as transaction:
        kept = instances.insert(transaction, evolve(an_instance(adapter.clock), ae_title="UNSERVED"))
        jobs.insert(transaction, a_job(adapter.clock), [kept.instance_id])  # the instance is not released yet
    pass_days(adapter, 9)
    assert 1 == len(adapter.jobs)
    with adapter.ledger.write() as transaction:
        instances.release(transaction, [kept.instance_id], adapter.clock.now())
    pass_days(adapter, 9)
    pass_days(adapter, 9)
    assert {InstanceOutcome.SUBMITTED: 1} == account(adapter).reclaimed


# --- replaced instances -----------------------------------------------------------------------------------------------


def test_a_replaced_instance_that_a_processor_may_still_name_is_not_deleted(make_adapter: MakeAdapter) -> None:
    """The processor holds the first arrival, which resolves to the third.

    Verified to fail when the row is deleted (then the turn is refused each time).
    """
    adapter = make_adapter(configured(timeout=10 * DAY_S))
    for description in ("first", "second", "third"):
        adapter.receive(make_instance(seed="same", StudyDescription=description), ae_title="LUNG")
    adapter.advance(60)
    assert {"pending": 1, "reclaimed": 2} == adapter.states
    pass_days(adapter, 9)
    assert {"pending": 1, "reclaimed": 2} == adapter.states
    pass_days(adapter, 1)
    assert [JobState.SUBMITTED] * 2 == [job.state for job in adapter.jobs]
    pass_days(adapter, 2)
    assert {} == rows(adapter)
    assert {InstanceOutcome.SUBMITTED: 1, InstanceOutcome.REPLACED: 2} == account(adapter).reclaimed


def test_a_replacement_is_deleted_after_the_instance_that_it_replaced(make_adapter: MakeAdapter) -> None:
    """The end of a chain is kept as long as a job needs the beginning.

    Verified to fail when the newer row is deleted first (then the older one refers to a missing row).
    """
    adapter = make_adapter(configured())
    now = adapter.clock.now()
    with adapter.ledger.write() as transaction:
        chain = [instances.insert(transaction, an_instance(adapter.clock))]
        faulted = jobs.insert(transaction, a_job(adapter.clock, state=JobState.FAULTED), [chain[0].instance_id])
        for _number in range(2):
            newer = evolve(chain[-1], instance_id=UNNUMBERED, storage_key=f"{len(chain):032x}")
            chain.append(instances.replace(transaction, chain[-1], newer))
        instances.release(transaction, [chain[-1].instance_id], now)
    adapter.advance(60)
    pass_days(adapter, 9)
    assert {"released": 1, "reclaimed": 2} == adapter.states
    with adapter.ledger.write() as transaction:
        assert [] == balance.with_missing_replacement(transaction)
        (row,) = jobs.newest(transaction, 1)
        assert faulted == row.number
        jobs.change(transaction, row, state=JobState.CANCELLED)
    adapter.advance(60)
    pass_days(adapter, 9)
    pass_days(adapter, 9)
    assert {} == rows(adapter)


# --- small transactions -----------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", durable=False)
    opened.migrate()
    yield opened
    opened.close()


NUMBERS = count(1)


def an_instance(clock: VirtualClock) -> InstanceStorageInfo:
    number = next(NUMBERS)
    return InstanceStorageInfo(
        instance_id=UNNUMBERED,
        ae_title="LUNG",
        calling_ae_title="CT1",
        peer_address="127.0.0.1",
        association_id="a" * 32,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"2.25.{number}",
        study_instance_uid="2.25.1000",
        series_instance_uid="2.25.2000",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_id="P1",
        issuer_of_patient_id="",
        received_at=clock.now(),
        storage_key=f"{number:032x}",
        size_bytes=1000,
        checksum=0,
    )


def a_job(clock: VirtualClock, **values: Any) -> Job:
    now = clock.now()
    job = Job(
        job_id=f"{next(NUMBERS):032x}",
        name="LUNG-one",
        ae_title="LUNG",
        pipeline_id="p1",
        priority=JobPriority.NORMAL,
        submitter="platform",
        instance_count=1,
        state=JobState.SUBMITTED,
        created_at=now,
        changed_at=now,
    )
    return evolve(job, **values)


def a_day(ledger: Ledger, clock: VirtualClock, jobs_a_day: int, instances_a_job: int) -> None:
    """Enter the finished instances and jobs of one day."""
    now = clock.now()
    with ledger.write() as transaction:
        for _job in range(jobs_a_day):
            numbers = [instances.insert(transaction, an_instance(clock)).instance_id for _ in range(instances_a_job)]
            job = a_job(clock, instance_count=instances_a_job)
            jobs.insert(transaction, job, numbers)
            instances.release(transaction, numbers, now)
            instances.mark_reclaimed(transaction, numbers, now)
            about = [Event(at=now, event="reclaimed", ae_title="LUNG", instance_id=number) for number in numbers]
            events.record(transaction, [*about, Event(at=now, event="job_queued", ae_title="LUNG", job_id=job.job_id)])
        events.record(transaction, [Event(at=now, event="association_closed", ae_title="LUNG", association_id="a")])


def run(deletion: Retention, clock: VirtualClock) -> int:
    """Perform the steps of one run, and return their number."""
    clock.move_to(clock.now() + EVERY)
    for number in count(1):
        when = deletion.step()
        if when - clock.now() == EVERY:
            return number
        clock.move_to(when)
    raise AssertionError


def test_the_ledger_file_stops_growing(ledger: Ledger) -> None:
    """The traffic of a year needs the space of the configured days.

    Verified to fail when nothing is deleted.
    """
    clock = VirtualClock()
    deletion = Retention(ledger, clock, timedelta(days=10), [])
    pages = []
    for _day in range(0, 365, 5):
        a_day(ledger, clock, jobs_a_day=4, instances_a_job=10)
        clock.advance(5 * DAY_S)
        run(deletion, clock)
        with ledger.read() as transaction:
            pages.append(transaction.execute(text("PRAGMA page_count")).scalar())
            assert 0 == balance.load_accounts(transaction)[0].difference
    assert max(pages[:6]) >= max(pages[6:])
    with ledger.read() as transaction:
        assert [] == transaction.execute(text("PRAGMA foreign_key_check")).all()


def test_a_transaction_deletes_a_few_rows_so_that_other_processes_can_write(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is deleted in one transaction with all its rows."""
    monkeypatch.setattr(retention, "BATCH", 7)
    monkeypatch.setattr(retention, "JOBS", 3)
    monkeypatch.setattr(retention, "JOB_ROWS", 5)
    clock = VirtualClock()
    a_day(ledger, clock, jobs_a_day=5, instances_a_job=4)
    clock.advance(2 * DAY_S)
    deletion = Retention(ledger, clock, timedelta(days=1), [])
    clock.move_to(clock.now() + EVERY)
    held = [held_rows(ledger)]
    while deletion.step() - clock.now() < EVERY:
        clock.advance(1)
        held.append(held_rows(ledger))
    assert [5, 3, 1, 0] == list(dict.fromkeys(jobs for jobs, _instances in held))
    assert [20, 13, 6, 0] == list(dict.fromkeys(instances for _jobs, instances in held))
    assert (0, 0) == held[-1]


def held_rows(ledger: Ledger) -> tuple[int, int]:
    with ledger.read() as transaction:
        counts = [
            transaction.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in ("jobs", "instances")
        ]
    return counts[0], counts[1]


def test_old_rows_that_are_kept_do_not_block_others(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of kept rows is larger than the number of rows that a transaction reads.

    Verified to fail when transactions always start at the oldest row (then rows behind the kept ones are never
    deleted).
    """
    for size in ("BATCH", "JOBS", "JOB_ROWS"):
        monkeypatch.setattr(retention, size, 3)
    clock = VirtualClock()
    a_day(ledger, clock, jobs_a_day=10, instances_a_job=1)  # jobs of a submitter that is polled
    clock.advance(60)
    a_day(ledger, clock, jobs_a_day=2, instances_a_job=1)
    with ledger.write() as transaction:
        for row in jobs.newest(transaction, 2):
            jobs.change(transaction, row, platform_finished=True)
    clock.advance(1.5 * DAY_S)
    run(Retention(ledger, clock, timedelta(days=1), ["platform"]), clock)
    assert (10, 10) == held_rows(ledger)


def test_a_failed_run_is_repeated_with_the_next_step(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt does not wait for the next regular run, ten minutes later."""
    clock = VirtualClock()
    a_day(ledger, clock, jobs_a_day=1, instances_a_job=1)
    clock.advance(2 * DAY_S)
    deletion = Retention(ledger, clock, timedelta(days=1), [])
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(ledger, "write", lambda: 1 / 0)
        deletion.step()
    run(deletion, clock)
    assert (0, 0) == held_rows(ledger)


def test_a_job_is_kept_until_its_submitter_has_cleaned_it_up(ledger: Ledger) -> None:
    """The submitter needs the ids of the job. A submitter that is not configured any more cleans nothing up."""
    clock = VirtualClock()
    a_day(ledger, clock, jobs_a_day=2, instances_a_job=1)
    with ledger.write() as transaction:
        clean_ups.insert(transaction, jobs.newest(transaction, 1)[0])
    clock.advance(2 * DAY_S)
    run(Retention(ledger, clock, timedelta(days=1), [], ["platform"]), clock)
    assert (1, 1) == held_rows(ledger)
    run(Retention(ledger, clock, timedelta(days=1), [], ["other"]), clock)
    assert (0, 0) == held_rows(ledger)
    with ledger.read() as transaction:
        assert set() == clean_ups.submitters(transaction)
