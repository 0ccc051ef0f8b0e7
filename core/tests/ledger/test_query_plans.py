"""Frequent queries stay fast in a ledger with the rows of years: each query uses an index."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import InstanceStorageInfo, Job, JobState
from dicom_adapter.ledger import (
    Ledger,
    balance,
    clean_ups,
    history,
    instance_rows,
    instances,
    jobs,
    recorded_events,
    selected_instances,
    senders,
    series,
    studies,
)
from dicom_adapter.ledger.begun_jobs import begun
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.held import count_held, count_held_bytes, count_held_results
from dicom_adapter.ledger.history import BEGINNING
from dicom_adapter.ledger.ledger_file import database_file
from dicom_adapter.ledger.numbering import INSTANCES, JOBS
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.ledger.series import ArrivedSeries
from support.query_plans import Query, plan_of, plans_of, statements

NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)

PARTIAL = {
    "pending_instances",
    "quarantined_instances",
}  # indexes of held instances: the pending and the quarantined ones


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the ledger that each test copies. The first test creates it."""
    return tmp_path_factory.mktemp("template") / "ledger.sqlite"


@pytest.fixture
def large_ledger(
    template: Path,
    url: str,
    an_instance: Callable[..., InstanceStorageInfo],
    a_job: Callable[..., Job],
) -> Iterator[Ledger]:
    """Return a ledger with many rows, nearly all of them finished."""
    if not template.exists():
        with closing(Ledger(f"sqlite:///{template}", durable=False)) as ledger:
            ledger.migrate()
            fill(ledger, an_instance, a_job)
    shutil.copyfile(template, database_file(url))
    with closing(Ledger(url, durable=False)) as ledger:
        yield ledger


def fill(ledger: Ledger, an_instance: Callable[..., InstanceStorageInfo], a_job: Callable[..., Job]) -> None:
    with ledger.write() as transaction:
        numbers = [instances.insert(transaction, an_instance()).instance_id for _ in range(200)]
        instances.release(transaction, numbers[:190], NOW)
        instances.mark_reclaimed(transaction, numbers[:180], NOW)
        for number in numbers:
            jobs.insert(transaction, a_job(state=JobState.SUBMITTED), [number])
        jobs.insert(transaction, a_job(), [1])
        series.enter(transaction, [ArrivedSeries("2.25.2000", "2.25.1000", "P1", "A1")], NOW)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (lambda t: instances.find_pending(t, "LUNG", "2.25.200"), "one_pending_instance"),
        (lambda t: instances.pending_after(t, 190, 1000, "LUNG"), "pending_instances"),
        (lambda t: instances.arrived_late(t, "LUNG", 190, NOW), "pending_instances"),
        (lambda t: jobs.count_unfinished(t), "unfinished_jobs"),
        (lambda t: jobs.count(t), "counted_jobs"),
        (lambda t: jobs.oldest_unfinished(t), "unfinished_jobs"),
        (lambda t: jobs.newest(t, 50, filters=Filters(ae_title="LUNG")), "jobs_of_ae_title"),
        (lambda t: jobs.newest(t, 50, filters=Filters(ae_title="LUNG"), states=jobs.FINISHED), "jobs_of_ae_title"),
        (lambda t: jobs.newest(t, 50, filters=Filters(ae_title="LUNG"), states=jobs.HELD), "held_jobs"),
        (lambda t: instances.released_after(t, 0, 500, NOW), "released_instances"),
        (lambda t: instance_rows.newest(t, 50, state=InstanceState.QUARANTINED), "quarantined_instances"),
        (
            lambda t: instance_rows.newest(t, 50, filters=Filters(ae_title="LUNG"), state=InstanceState.PENDING),
            "pending_instances",
        ),
        (lambda t: instance_rows.newest(t, 50, filters=Filters(study_instance_uid="2.25.7")), "instances_of_study"),
        (lambda t: instances.pending_arrivals(t, ["2.25.200"]), "arrivals_of_instance"),
        (lambda t: jobs.queue_heads(t, "platform", NOW, {5}, NOW), "unfinished_jobs"),
        (lambda t: jobs.due_for_polling(t, "platform", NOW, NOW, 50), "started_jobs"),
        (lambda t: begun(t, "platform"), "begun_jobs"),
        (lambda t: jobs.next_attempt(t, "platform", NOW), "unfinished_jobs"),
        (lambda t: clean_ups.due(t, "platform", NOW, 50, NOW), "clean_ups_by_time"),
        (lambda t: clean_ups.next_attempt(t, "platform"), "clean_ups_by_time"),
        (lambda t: clean_ups.submitters(t), "clean_ups_by_time"),
        (lambda t: clean_ups.of_job(t, "f" * 32), "ix_clean_ups_job_number"),
        (lambda t: jobs.get(t, "f" * 32), "sqlite_autoindex_jobs_1"),
        (lambda t: jobs.first_studies(t, [1, 2]), "sqlite_autoindex_job_instances_1"),
        (lambda t: series.newest_studies(t, 20), "series_by_time"),
        (lambda t: instances.of_job(t, 200, missing_only=True), "sqlite_autoindex_job_instances_1"),
        (lambda t: jobs.mark_uploaded(t, 200, [0, 1]), "sqlite_autoindex_job_instances_1"),
        (lambda t: instances.reclaimable(t, [185, 186], NOW), "ix_job_instances_instance_id"),
        (lambda t: recorded_events.of_job(t, "f" * 32), "ix_events_job_id"),
        (lambda t: recorded_events.of_instance(t, 1), "ix_events_instance_id"),
    ],
)
def test_a_frequent_query_uses_its_index(large_ledger: Ledger, query: Query, index: str) -> None:
    """No table is read from its beginning to its end."""
    plan = plan_of(large_ledger, query)
    assert any(index in line.split() for line in plan), plan
    assert [] == [line for line in plan if line.startswith("SCAN") and "INDEX" not in line]


@pytest.mark.parametrize(
    "query",
    [
        lambda t: instances.arrived_after(t, 199, 1000),
        lambda t: instances.last_number(t),
        lambda t: instances.release(t, [190], NOW),
        lambda t: recorded_events.after(t, 1000, 10),
        lambda t: recorded_events.newest(t, 100, searched=1000, before=500),
        lambda t: recorded_events.newest(t, 100, searched=1000, before=500, ae_title="LUNG", prefix="job_"),
        lambda t: jobs.newest(t, 50, before=100),
        lambda t: INSTANCES.at_least(t, 100),
        lambda t: JOBS.last(t),
    ],
)
def test_a_query_by_number_uses_the_primary_key(large_ledger: Ledger, query: Query) -> None:
    """Reading the newest rows does not read old ones."""
    plan = plan_of(large_ledger, query)
    assert plan
    assert [] == [line for line in plan if not line.startswith("SEARCH")]


def test_the_query_of_the_newest_of_the_next_instances_reads_no_older_rows(large_ledger: Ledger) -> None:
    """Only the next rows are read to find the newest number of each AE title."""
    plan = plan_of(large_ledger, lambda t: instances.newest_after(t, 199, 1000))
    assert ["SEARCH instances USING INTEGER PRIMARY KEY (rowid>?)"] == [line for line in plan if "instances" in line]


def test_held_instances_are_counted_without_reading_the_rest(large_ledger: Ledger) -> None:
    """The count runs every few seconds. It uses the indexes of held instances; no finished job or instance is read."""
    with large_ledger.write() as transaction:
        with statements(transaction) as sent:
            count_held_bytes(transaction, "LUNG")
            count_held_results(transaction, "LUNG")
            count_held(transaction)
            recorded_events.last_number(transaction)
            recorded_events.ae_titles_after(transaction, 1000, ["job_faulted"])
        for statement, parameters in sent:
            plan = [str(row[3]) for row in transaction.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            assert [] == [line for line in plan if line.startswith("SCAN") and line.split()[-1] not in PARTIAL], plan
            if "faulted" in statement:
                assert any("held_jobs" in line.split() for line in plan), plan


FILTERS = {
    "study": Filters(study_instance_uid="2.25.1000"),
    "series": Filters(series_instance_uid="2.25.2000"),
    "sop": Filters(sop_instance_uid="2.25.7"),
    "accession": Filters(accession_number="A1", since=NOW),
    "patient": Filters(patient_id="P1", calling_ae_title="CT1"),
}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("query", [instance_rows.newest, jobs.newest])
def test_looking_for_a_study_reads_only_its_rows(large_ledger: Ledger, query: Any, filters: Filters) -> None:
    """The attributes of studies have indexes. Verified to fail when a condition calls a function on such a column."""
    plan = plan_of(large_ledger, lambda transaction: query(transaction, 50, filters=filters))
    assert [] == [line for line in plan if line.startswith("SCAN")], plan


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_a_summary_of_studies_reads_only_their_rows(large_ledger: Ledger, filters: Filters) -> None:
    """`explain` finds the studies before it reads their history."""
    for plan in plans_of(large_ledger, lambda transaction: studies.find(transaction, filters, 50)):
        assert [] == [line for line in plan if line.startswith("SCAN")], plan


@pytest.mark.parametrize(
    "query",
    [
        lambda t: recorded_events.association_ends(t, NOW, NOW, 100),
        lambda t: senders.rejected(t, NOW),
        lambda t: history.old_series(t, NOW, BEGINNING, 500),
        lambda t: history.delete_series(t, [1, 2]),
    ],
)
def test_rejections_and_old_series_are_found_by_their_time(large_ledger: Ledger, query: Query) -> None:
    """No table is read from its beginning to its end."""
    for plan in plans_of(large_ledger, query):
        assert [] == [line for line in plan if line.startswith("SCAN")], plan


def test_the_newest_jobs_of_a_sender_are_found_from_the_newest_on(large_ledger: Ledger) -> None:
    """Most instances may come from this sender: they are not read before the first job is found."""
    plan = plan_of(large_ledger, lambda t: jobs.newest(t, 50, filters=Filters(calling_ae_title="CT1")))
    assert "SCAN jobs" == plan[0]
    assert [] == [line for line in plan[1:] if line.startswith("SCAN") or "TEMP B-TREE" in line], plan


def test_the_next_jobs_are_found_without_sorting(large_ledger: Ledger) -> None:
    """The index of unfinished jobs is in the order in which they are grouped."""
    plan = plan_of(large_ledger, lambda t: jobs.queue_heads(t, "platform", NOW))
    assert [] == [line for line in plan if "TEMP B-TREE" in line]


@pytest.mark.parametrize(
    "which",
    [
        selected_instances.of_study("2.25.1000"),
        selected_instances.of_sop_instance("2.25.7"),
        selected_instances.of_job(7),
    ],
    ids=("study", "sop", "job"),
)
@pytest.mark.parametrize(
    "query",
    [
        selected_instances.arrivals,
        selected_instances.studies_of_newer,
        selected_instances.jobs_with,
        selected_instances.job_events,
        selected_instances.instance_events,
        selected_instances.association_ends,
    ],
)
def test_a_story_reads_only_its_rows(large_ledger: Ledger, which: Any, query: Any) -> None:
    """Each statement searches every table that it needs. Verified to fail when there is no index on the study's UID."""
    for plan in plans_of(large_ledger, lambda transaction: query(transaction, which)):
        assert [] == [line for line in plan if line.startswith("SCAN")]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (lambda t: selected_instances.ae_title_events(t, "LUNG", NOW, NOW), "events_of_ae_title"),
        (lambda t: selected_instances.uploaded(t, 200), "sqlite_autoindex_job_instances_1"),
        (lambda t: jobs.with_prefix(t, "ab", 2), "sqlite_autoindex_jobs_1"),
    ],
)
def test_the_other_queries_of_a_story_use_an_index(large_ledger: Ledger, query: Query, index: str) -> None:
    (plan,) = plans_of(large_ledger, query)
    assert plan[0].startswith("SEARCH")
    assert index in plan[0].split()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (lambda t: history.finished_jobs(t, NOW, BEGINNING, 100, 2000), "finished_jobs"),
        (lambda t: history.reclaimed_instances(t, NOW, BEGINNING, 500), "reclaimed_instances"),
        (lambda t: history.old_events(t, NOW, BEGINNING, 500), "events_by_time"),
    ],
)
def test_old_rows_are_found_without_sorting(large_ledger: Ledger, query: Query, index: str) -> None:
    """A page begins after the last row of the previous page, however many old rows are kept."""
    plan = plan_of(large_ledger, query)
    assert index in plan[0].split()
    assert [] == [line for line in plan if line.startswith("SCAN") or "TEMP B-TREE" in line]


@pytest.mark.parametrize(
    "query",
    [
        lambda t: [history.delete_jobs(t, [2, 3], ["other"], NOW, ["other"]), history.delete_instances(t, [2, 3])],
        lambda t: history.delete_events(t, [1, 2]),
        lambda t: balance.object_rows_after(t, 100, 1000),
        lambda t: balance.object_rows(t, [1, 2]),
        lambda t: balance.is_needed(t, 1),
        lambda t: balance.arrivals(t, "LUNG", "2.25.7"),
    ],
)
def test_deleting_and_comparing_read_only_their_rows(large_ledger: Ledger, query: Query) -> None:
    """No statement reads a table, or an index, from its beginning to its end."""
    plans = plans_of(large_ledger, query)
    assert plans
    assert [] == [line for plan in plans for line in plan if line.startswith("SCAN") and line != "SCAN CONSTANT ROW"]
