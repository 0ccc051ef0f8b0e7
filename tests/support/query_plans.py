"""The query plans of SQLite for the statements of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from dicom_adapter.ledger import Ledger, Transaction

Query = Callable[[Transaction], Any]  # calls a function of the ledger


@contextmanager
def statements(transaction: Transaction) -> Iterator[list[tuple[str, Any]]]:
    """Collect the compiled statements that are sent to the database, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        sent.append((statement, parameters))

    event.listen(transaction, "before_cursor_execute", note)
    yield sent
    event.remove(transaction, "before_cursor_execute", note)


def plan_of(ledger: Ledger, query: Query) -> list[str]:
    """Return the query plan of the only statement that `query` sends."""
    (plan,) = plans_of(ledger, query)
    return plan


def plans_of(ledger: Ledger, query: Query) -> list[list[str]]:
    """Return the query plan of each statement that `query` sends, without the aggregation of rows into one value."""
    with ledger.write() as transaction:
        with statements(transaction) as sent:
            query(transaction)
        plans = [transaction.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given) for statement, given in sent]
        return [[str(row[3]) for row in plan if row[3] not in ("CO-ROUTINE batch", "SCAN batch")] for plan in plans]
