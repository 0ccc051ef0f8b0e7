"""The questions that are asked again and again stay fast when the ledger remembers years: each uses its index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pytest
from sqlalchemy import event

from dicom_adapter import InstanceStorageInfo, Job, JobState
from dicom_adapter.ledger import Ledger, Transaction, events, instances, jobs

NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)

Ask = Callable[[Transaction], Any]


@pytest.fixture
def remembering(ledger: Ledger, an_instance: Callable[..., InstanceStorageInfo], a_job: Callable[..., Job]) -> Ledger:
    """A ledger with a past: nearly all of it finished."""
    with ledger.write() as transaction:
        numbers = [instances.insert(transaction, an_instance()).instance_id for _ in range(200)]
        instances.release(transaction, numbers[:190], NOW)
        instances.mark_reclaimed(transaction, numbers[:180], NOW)
        for number in numbers:
            jobs.insert(transaction, a_job(state=JobState.SUBMITTED), [number])
        jobs.insert(transaction, a_job(), [1])
    return ledger


@contextmanager
def statements(transaction: Transaction) -> Iterator[list[tuple[str, Any]]]:
    """What is sent to the database, as it was compiled, with its parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        sent.append((statement, parameters))

    event.listen(transaction, "before_cursor_execute", note)
    yield sent
    event.remove(transaction, "before_cursor_execute", note)


def plan_of(ledger: Ledger, ask: Ask) -> list[str]:
    """How SQLite answers the one statement that `ask` sends."""
    with ledger.write() as transaction:
        with statements(transaction) as sent:
            ask(transaction)
        ((statement, parameters),) = sent
        rows = transaction.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return [str(row[3]) for row in rows]


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (lambda t: instances.find_pending(t, "LUNG", "2.25.200"), "one_pending_instance"),
        (lambda t: instances.pending_after(t, 190, 1000, "LUNG"), "pending_instances"),
        (lambda t: instances.released_after(t, 0, 500), "released_instances"),
        (lambda t: jobs.heads(t, "platform", NOW, {5}), "unfinished_jobs"),
        (lambda t: jobs.started(t, "platform", NOW, 50), "started_jobs"),
        (lambda t: jobs.next_attempt(t, "platform", NOW), "unfinished_jobs"),
        (lambda t: jobs.get(t, "f" * 32), "sqlite_autoindex_jobs_1"),
        (lambda t: instances.of_job(t, 200, missing_only=True), "sqlite_autoindex_job_instances_1"),
        (lambda t: jobs.mark_uploaded(t, 200, [0, 1]), "sqlite_autoindex_job_instances_1"),
        (lambda t: instances.reclaimable(t, [185, 186]), "ix_job_instances_instance_id"),
        (lambda t: events.of_job(t, "f" * 32), "ix_events_job_id"),
        (lambda t: events.of_instance(t, 1), "ix_events_instance_id"),
    ],
)
def test_a_frequent_question_uses_its_index(remembering: Ledger, ask: Ask, index: str) -> None:
    """No table is read from its beginning to its end."""
    plan = plan_of(remembering, ask)
    assert any(index in line.split() for line in plan), plan
    assert [] == [line for line in plan if line.startswith("SCAN") and "INDEX" not in line]


@pytest.mark.parametrize(
    "ask",
    [
        lambda t: instances.arrived_after(t, 199, 1000),
        lambda t: instances.last_number(t),
        lambda t: instances.release(t, [190], NOW),
        lambda t: events.after(t, 1000, 10),
    ],
)
def test_a_question_by_number_goes_straight_to_it(remembering: Ledger, ask: Ask) -> None:
    """Who follows the newest rows does not read the old ones."""
    plan = plan_of(remembering, ask)
    assert plan
    assert [] == [line for line in plan if not line.startswith("SEARCH")]


def test_the_next_jobs_are_found_without_sorting(remembering: Ledger) -> None:
    """The index of unfinished jobs is in the order in which they are grouped."""
    plan = plan_of(remembering, lambda t: jobs.heads(t, "platform", NOW))
    assert [] == [line for line in plan if "TEMP B-TREE" in line]
