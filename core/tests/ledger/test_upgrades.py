"""A ledger of an earlier version is upgraded with all of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, BigInteger, Boolean, Column, Integer, MetaData, Table, text

from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.migration import MIGRATIONS, REVISION

Tables = dict[str, list[dict[str, object]]]

EARLIER = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))[:-1]
STATES = {"instances": ["reclaimed", "reclaimed", "pending"], "jobs": ["submitted", "cancelled", "faulted"]}
REPLACED_BY = [None, 3, None]


@pytest.fixture
def make_ledger(url: str) -> Iterator[Callable[[str], Ledger]]:
    """Return a factory of ledgers of a revision, with three rows in each table."""
    opened = Ledger(url, durable=False)

    def make(revision: str) -> Ledger:
        with opened._engine.connect() as connection:
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", str(MIGRATIONS))
            command.upgrade(config, revision)
            connection.commit()
        with opened.write() as transaction:
            for table in reflected(transaction).sorted_tables:
                for number in range(3):
                    transaction.execute(table.insert().values(row(table, number)))
        return opened

    yield make
    opened.close()


def reflected(transaction: Any) -> MetaData:
    """Return the tables of the ledger, whatever its revision."""
    metadata = MetaData()
    metadata.reflect(transaction, only=lambda name, _metadata: name != "alembic_version")
    return metadata


def row(table: Table, number: int) -> dict[str, object]:
    return {column.name: value(table.name, column, number) for column in table.columns}


def value(table: str, column: Column[Any], number: int) -> object:
    """Return a value that is different in each row and column, and that is not the default."""
    if column.name == "state" and table in STATES:
        return STATES[table][number]
    if column.name == "replaced_by":
        return REPLACED_BY[number]
    if column.foreign_keys or (column.primary_key and isinstance(column.type, (BigInteger, Integer))):
        return number + 1
    if isinstance(column.type, JSON):
        return {"key": f"{column.name} {number}"}
    if isinstance(column.type, Boolean):
        return number != 1
    if isinstance(column.type, (BigInteger, Integer)):
        return 1000 * (number + 1) + len(column.name)
    return f"{column.name[:13]}-{number}"


def read(ledger: Ledger) -> Tables:
    with ledger.read() as transaction:
        return {
            table.name: [
                dict(each._mapping) for each in transaction.execute(table.select().order_by(*table.primary_key))
            ]
            for table in reflected(transaction).sorted_tables
        }


def columns_of(before: Tables, after: Tables) -> Tables:
    """Return the tables and columns of `before`, with the rows of `after`."""
    return {
        name: [{column: each[column] for column in rows[0]} for each in after[name]] for name, rows in before.items()
    }


@pytest.mark.parametrize("revision", EARLIER)
def test_an_upgrade_keeps_every_row_and_value(make_ledger: Callable[[str], Ledger], revision: str) -> None:
    """No existing migration changes a value.

    Verified to fail when a migration deletes the rows of a table, or updates a column of all rows.
    """
    ledger = make_ledger(revision)
    before = read(ledger)
    assert {"instances", "jobs", "job_instances", "lanes", "events"} <= before.keys()
    assert {3} == {len(rows) for rows in before.values()}

    ledger.migrate()

    ledger.require_current()
    assert before == columns_of(before, read(ledger))


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_instances_get_the_time_and_outcome_that_they_would_have_had(
    make_ledger: Callable[[str], Ledger], revision: str
) -> None:
    """Revision 0003 computes times, outcomes and totals from the rows.

    Verified to fail when it does not update the rows.
    """
    ledger = make_ledger(revision)
    ledger.migrate()
    tables = read(ledger)
    assert [each["received_at"] for each in tables["instances"]] == [each["changed_at"] for each in tables["instances"]]
    assert ["submitted", "replaced", ""] == [each["outcome"] for each in tables["instances"]]
    assert [1, 1, 1] == [each["count"] for each in tables["tallies"] if each["what"] == "received"]


def test_a_second_upgrade_changes_nothing(make_ledger: Callable[[str], Ledger]) -> None:
    """Every start calls `migrate`. A current ledger is not changed."""
    ledger = make_ledger(EARLIER[0])
    ledger.migrate()
    before = read(ledger)
    ledger.migrate()
    assert before == read(ledger)
    with ledger.read() as transaction:
        assert REVISION == transaction.execute(text("SELECT version_num FROM alembic_version")).scalar()
