"""Instances in the ledger: arrival, replacement, and changes of state."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select

from dicom_adapter import InstanceStorageInfo, Job, JobState
from dicom_adapter.api.errors import RowRejected
from dicom_adapter.ledger import Ledger, counters, instances, jobs
from dicom_adapter.ledger.column_types import UtcDateTime
from dicom_adapter.ledger.instance_values import CHUNK
from dicom_adapter.ledger.schema import instances as table

MakeInstance = Callable[..., InstanceStorageInfo]
MakeJob = Callable[..., Job]

NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)


@pytest.fixture
def arrive(ledger: Ledger, an_instance: MakeInstance) -> MakeInstance:
    """Return a function that inserts an instance in a separate transaction."""

    def insert(**values: object) -> InstanceStorageInfo:
        with ledger.write() as transaction:
            return instances.insert(transaction, an_instance(**values))

    return insert


def states(ledger: Ledger) -> list[str]:
    with ledger.read() as transaction:
        return list(transaction.execute(select(table.c.state).order_by(table.c.instance_id)).scalars())


# --- arrival --------------------------------------------------------------------------------------------------------


def test_an_instance_is_read_as_it_was_inserted(ledger: Ledger, an_instance: MakeInstance) -> None:
    """Every field is read as it was written; only the number is new."""
    given_one = an_instance(patient_id="Müller \U0001f600 \\ 'x'", issuer_of_patient_id="ISS")
    with ledger.write() as transaction:
        inserted = instances.insert(transaction, given_one)
    with ledger.read() as transaction:
        pending = instances.find_pending(transaction, "LUNG", given_one.sop_instance_uid)
    assert evolve(given_one, instance_id=1) == inserted == pending


def test_numbers_follow_the_order_of_arrival_and_are_never_used_again(ledger: Ledger, arrive: MakeInstance) -> None:
    """A reader that continues after the newest number misses no later row, even if the newest row was deleted."""
    arrive()
    newest = arrive()
    with ledger.write() as transaction:
        transaction.execute(delete(table).where(table.c.instance_id == newest.instance_id))
    assert newest.instance_id + 1 == arrive().instance_id


def test_one_sop_instance_is_pending_once_for_an_ae_title(ledger: Ledger, arrive: MakeInstance) -> None:
    """The database refuses a duplicate.

    Another AE title, or the same AE title after the release, may have the instance.
    """
    first = arrive(sop_instance_uid="1.2.3")
    with pytest.raises(RowRejected):
        arrive(sop_instance_uid="1.2.3")
    arrive(sop_instance_uid="1.2.3", ae_title="LIVER")
    with ledger.write() as transaction:
        instances.release(transaction, [first.instance_id], NOW)
    again = arrive(sop_instance_uid="1.2.3")
    with ledger.read() as transaction:
        assert again == instances.find_pending(transaction, "LUNG", "1.2.3")


def test_pending_instances_are_read_in_order_and_in_pieces(ledger: Ledger, arrive: MakeInstance) -> None:
    """Reading returns instances above a number, of one AE title or of all, up to the limit."""
    arrived = [arrive(ae_title=name) for name in ("LUNG", "LIVER", "LUNG", "LUNG", "LIVER")]
    with ledger.write() as transaction:
        instances.release(transaction, [3], NOW)
        assert [1, 4] == [row.instance_id for row in instances.pending_after(transaction, 0, 10, "LUNG")]
        assert [4] == [row.instance_id for row in instances.pending_after(transaction, 1, 10, "LUNG")]
        assert [1, 2] == [row.instance_id for row in instances.arrived_after(transaction, 0, 2)]
        assert arrived[-1].instance_id == instances.last_number(transaction)


@pytest.mark.parametrize("patient_id", ["", 'a"b\\c', "\x00 in \x1b the\r\nmiddle", "山田^太郎", "\U0001f600"])
def test_instances_are_read_as_json_without_loss(ledger: Ledger, arrive: MakeInstance, patient_id: str) -> None:
    """Any text in a patient ID and every bit of a number are preserved."""
    instance = arrive(patient_id=patient_id, size_bytes=2**53 + 1, checksum=2**32 - 1)
    with ledger.read() as transaction:
        assert [instance] == instances.pending_after(transaction, 0, 10, instance.ae_title)


def test_the_newest_of_the_next_instances_is_found_by_ae_title(ledger: Ledger, arrive: MakeInstance) -> None:
    """Instances in any state count, but only those up to the limit."""
    for name in ("LUNG", "LIVER", "LUNG", "LUNG", "LIVER"):
        arrive(ae_title=name)
    with ledger.write() as transaction:
        instances.release(transaction, [3], NOW)
        assert {"LUNG": 4, "LIVER": 5} == instances.newest_after(transaction, 0, 10)
        assert {"LUNG": 3, "LIVER": 2} == instances.newest_after(transaction, 0, 3)
        assert {} == instances.newest_after(transaction, 5, 10)


# --- replacement ----------------------------------------------------------------------------------------------------


def test_every_id_of_a_chain_refers_to_the_newest_instance(ledger: Ledger, an_instance: MakeInstance) -> None:
    """The id of the first of five duplicates refers to the fifth."""
    with ledger.write() as transaction:
        chain = [instances.insert(transaction, an_instance(sop_instance_uid="1.2.3"))]
        for _ in range(4):
            chain.append(instances.replace(transaction, chain[-1], an_instance(sop_instance_uid="1.2.3")))
        other = instances.insert(transaction, an_instance())
        numbers = [instance.instance_id for instance in chain]
        assert dict.fromkeys(numbers, numbers[-1]) | {other.instance_id: other.instance_id} == (
            instances.resolve_pending(transaction, [*numbers, other.instance_id])
        )
        assert chain[-1] == instances.find_pending(transaction, "LUNG", "1.2.3")
        assert numbers[:-1] == instances.released_after(transaction, 0, 10, NOW)


def test_ids_without_a_pending_instance_are_omitted(
    ledger: Ledger, arrive: MakeInstance, an_instance: MakeInstance
) -> None:
    """Released, quarantined and unknown instances are omitted, and those whose replacement was released."""
    released, quarantined, replaced = arrive(), arrive(), arrive()
    with ledger.write() as transaction:
        newer = instances.replace(transaction, replaced, an_instance(sop_instance_uid=replaced.sop_instance_uid))
        instances.release(transaction, [released.instance_id, newer.instance_id], NOW)
        instances.quarantine(transaction, quarantined.instance_id, "no study", NOW)
        asked = [released.instance_id, quarantined.instance_id, replaced.instance_id, newer.instance_id, 999]
        assert {} == instances.resolve_pending(transaction, asked)


def test_more_instances_than_the_limit_of_one_statement_are_resolved(ledger: Ledger, an_instance: MakeInstance) -> None:
    """A study of any size is resolved by one call."""
    with ledger.write() as transaction:
        numbers = [instances.insert(transaction, an_instance()).instance_id for _ in range(2 * CHUNK + 1)]
        assert {number: number for number in numbers} == instances.resolve_pending(transaction, numbers)
        instances.release(transaction, numbers, NOW)
        assert numbers == [row.instance_id for row in instances.reclaimable(transaction, numbers, NOW)]


# --- states ---------------------------------------------------------------------------------------------------------


def test_each_change_of_state_starts_from_the_state_that_allows_it(ledger: Ledger, arrive: MakeInstance) -> None:
    """A quarantined instance cannot be released, a pending one reclaimed, nor a released one quarantined."""
    quarantined, pending, released = arrive().instance_id, arrive().instance_id, arrive().instance_id
    with ledger.write() as transaction:
        instances.quarantine(transaction, quarantined, "no study", NOW)
        instances.release(transaction, [quarantined, released], NOW)
        instances.quarantine(transaction, released, "too late", NOW)
        instances.mark_reclaimed(transaction, [quarantined, pending], NOW)
    assert ["quarantined", "pending", "released"] == states(ledger)
    with ledger.write() as transaction:
        instances.mark_reclaimed(transaction, [released], NOW)
        assert {("LUNG", "quarantined"): 1, ("LUNG", "pending"): 1, ("LUNG", "reclaimed"): 1} == (
            instances.count_by_state(transaction)
        )
        reason = transaction.execute(select(table.c.reason).where(table.c.instance_id == quarantined)).scalar()
    assert "no study" == reason


@pytest.mark.parametrize("state", list(JobState))
def test_an_instance_can_be_reclaimed_when_no_job_needs_it(
    ledger: Ledger, arrive: MakeInstance, a_job: MakeJob, state: JobState
) -> None:
    """Jobs that have ended no longer need their instances.

    A faulted or failed job needs them, because it may be retried.
    """
    held, free, pending = arrive(), arrive(), arrive()
    with ledger.write() as transaction:
        jobs.insert(transaction, a_job(state=JobState.SUBMITTED), [held.instance_id, free.instance_id])
        jobs.insert(transaction, a_job(state=state), [held.instance_id])
        instances.release(transaction, [held.instance_id, free.instance_id], NOW)
        asked = [held.instance_id, free.instance_id, pending.instance_id]
        finished = state in (JobState.SUBMITTED, JobState.SUCCEEDED, JobState.CANCELLED)
        assert ([held] if finished else []) + [free] == instances.reclaimable(transaction, asked, NOW)


def test_an_instance_that_a_job_refers_to_keeps_its_row(ledger: Ledger, arrive: MakeInstance, a_job: MakeJob) -> None:
    """Foreign keys are enforced: the story of a job always has its instances."""
    held = arrive()
    with ledger.write() as transaction:
        jobs.insert(transaction, a_job(), [held.instance_id])
    with pytest.raises(RowRejected), ledger.write() as transaction:
        transaction.execute(delete(table).where(table.c.instance_id == held.instance_id))


# --- times ----------------------------------------------------------------------------------------------------------


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_round_trips_exactly(moment: datetime) -> None:
    """A time of any time zone is read to the microsecond, in UTC."""
    column = UtcDateTime()
    back = column.process_result_value(column.process_bind_param(moment, None), None)
    assert back is not None
    assert (moment - back) == timedelta(0)
    assert timezone.utc is back.tzinfo


def test_times_are_ordered_in_the_ledger(ledger: Ledger, arrive: MakeInstance) -> None:
    """Times are ordered around the epoch and in the far future, to the microsecond."""
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    future = datetime(2999, 12, 31, 23, 59, 59, 999_998, tzinfo=timezone.utc)
    tick = timedelta(microseconds=1)
    moments = [epoch - tick, epoch, epoch + tick, future, future + tick]
    for moment in reversed(moments):
        arrive(received_at=moment)
    with ledger.read() as transaction:
        times = list(transaction.execute(select(table.c.received_at).order_by(table.c.received_at)).scalars())
    assert moments == times
    assert all(earlier < later for earlier, later in pairwise(times))


def test_a_time_without_a_time_zone_is_refused(arrive: MakeInstance) -> None:
    """A guessed time zone could shift a deadline by hours."""
    with pytest.raises(RowRejected):
        arrive(received_at=datetime(2026, 1, 5))  # noqa: DTZ001 - the mistake under test


@pytest.mark.parametrize(
    ("states_of_its_jobs", "outcome"),
    [
        ([], "unused"),
        ([JobState.SUBMITTED], "submitted"),
        ([JobState.CANCELLED], "cancelled"),
        ([JobState.CANCELLED, JobState.SUBMITTED], "submitted"),
    ],
)
def test_a_reclaimed_instance_has_an_outcome(
    ledger: Ledger, arrive: MakeInstance, a_job: MakeJob, states_of_its_jobs: list[JobState], outcome: str
) -> None:
    number = arrive().instance_id
    with ledger.write() as transaction:
        instances.release(transaction, [number], NOW)
        for state in states_of_its_jobs:
            jobs.insert(transaction, a_job(state=state), [number])
        instances.mark_reclaimed(transaction, [number], NOW + timedelta(hours=1))
    with ledger.read() as transaction:
        row = transaction.execute(select(table.c.outcome, table.c.changed_at)).one()
    assert (outcome, NOW + timedelta(hours=1)) == tuple(row)


def test_a_replaced_instance_stays_replaced_when_it_is_reclaimed(ledger: Ledger, an_instance: MakeInstance) -> None:
    with ledger.write() as transaction:
        old = instances.insert(transaction, an_instance(sop_instance_uid="1.2.3"))
        instances.replace(transaction, old, an_instance(sop_instance_uid="1.2.3"))
        instances.mark_reclaimed(transaction, [old.instance_id], NOW)
        outcomes = transaction.execute(select(table.c.outcome).order_by(table.c.instance_id)).scalars()
        assert ["replaced", ""] == list(outcomes)


def test_every_arrival_is_counted_with_its_row_or_not_at_all(ledger: Ledger, an_instance: MakeInstance) -> None:
    with ledger.write() as transaction:
        for ae_title in ("LUNG", "LUNG", "LIVER"):
            instances.insert(transaction, an_instance(ae_title=ae_title))
    with pytest.raises(ZeroDivisionError), ledger.write() as transaction:
        instances.insert(transaction, an_instance(ae_title="LUNG"))
        raise ZeroDivisionError
    with ledger.read() as transaction:
        assert {("LUNG", "received"): 2, ("LIVER", "received"): 1} == counters.load(transaction)
