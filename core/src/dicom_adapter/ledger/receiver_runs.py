"""The high-water mark of each receiver run: all its instances up to this number have rows, or were dropped.

If a power loss erases a row, the row is inserted again from the recovery record of its instance. Only records above
the high-water mark are used: the mark is written in the same transaction as the rows, so a power loss erases both or
neither.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import sqlite

from dicom_adapter.ledger.connection import Transaction, as_sqlalchemy_error
from dicom_adapter.ledger.schema import commits


def _compile() -> str:
    insert = sqlite.insert(commits).values(run=None, receiver=None, reached=None)
    newer = insert.on_conflict_do_update(index_elements=[commits.c.run], set_={"reached": insert.excluded.reached})
    return str(newer.compile(dialect=sqlite.dialect()))


_SET_HIGH_WATER_MARK = _compile()


def set_high_water_mark(transaction: Transaction, run: str, receiver: str, number: int) -> None:
    """Set the high-water mark of a run: all its instances up to this number have rows, or were dropped."""
    cursor = transaction.connection.cursor()
    try:
        cursor.execute(_SET_HIGH_WATER_MARK, (run, receiver, number))
    except transaction.dialect.loaded_dbapi.Error as failure:
        raise as_sqlalchemy_error(transaction, failure) from failure
    finally:
        cursor.close()


def confirm(transaction: Transaction, followed: Collection[str], living: Collection[str]) -> None:
    """Change a row of each followed run, so that the commit is written and synced.

    SQLite does not write an unchanged page, and without a written page it does not sync.
    Deletes the marks of earlier runs, except `followed` ones, if their receivers run now (`living` are the current
    runs): the start of a receiver enters all rows that its earlier runs have left.
    """
    transaction.execute(update(commits).where(commits.c.run.in_(followed)).values(settled=commits.c.settled + 1))
    receivers = select(commits.c.receiver).where(commits.c.run.in_(living))
    transaction.execute(delete(commits).where(commits.c.receiver.in_(receivers), commits.c.run.not_in(followed)))


def high_water_marks(transaction: Transaction) -> dict[str, int]:
    """Return the high-water mark of each run."""
    rows = transaction.execute(select(commits.c.run, commits.c.reached))
    return {row.run: row.reached for row in rows}
