"""How far receivers have come with the instances that they number: the rows of all up to there are in the ledger.

A row is durable with its instance, because that has a recovery record from which the row can be entered again. Only
records above the marks are used for that: the marks are written in the same transactions as the rows, and lost with
them.
"""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import sqlite

from dicom_adapter.ledger.connection import Transaction, as_everywhere
from dicom_adapter.ledger.schema import commits


def _compile() -> str:
    insert = sqlite.insert(commits).values(run=None, receiver=None, reached=None)
    newer = insert.on_conflict_do_update(index_elements=[commits.c.run], set_={"reached": insert.excluded.reached})
    return str(newer.compile(dialect=sqlite.dialect()))


_REACH = _compile()


def reach(transaction: Transaction, run: str, receiver: str, number: int) -> None:
    """All instances of the run up to this number have been decided on."""
    cursor = transaction.connection.cursor()
    try:
        cursor.execute(_REACH, (run, receiver, number))
    except transaction.dialect.loaded_dbapi.Error as failure:
        raise as_everywhere(transaction, failure) from failure
    finally:
        cursor.close()


def checkpoint(transaction: Transaction, run: str, receiver: str) -> None:
    """Change something, so that the commit is written and synced, and forget the receiver's earlier runs.

    SQLite does not write a page that stays the same, and then syncs nothing.
    """
    transaction.execute(update(commits).where(commits.c.run == run).values(settled=commits.c.settled + 1))
    transaction.execute(delete(commits).where(commits.c.receiver == receiver, commits.c.run != run))


def reached(transaction: Transaction) -> dict[str, int]:
    """How far each run has come."""
    rows = transaction.execute(select(commits.c.run, commits.c.reached))
    return {row.run: row.reached for row in rows}
