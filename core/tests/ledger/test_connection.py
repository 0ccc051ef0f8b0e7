"""The connection to the ledger: its schema, its transactions, and concurrent processes."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from dicom_adapter import InstanceStorageInfo, Refused
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.config.model import default_ledger_url
from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.ledger.ledger_file import exists
from dicom_adapter.ledger.migration import MIGRATIONS, REVISION, create, upgrade
from dicom_adapter.ledger.schema import metadata

MakeInstance = Callable[..., InstanceStorageInfo]


@pytest.fixture
def unmigrated(url: str) -> Iterator[Ledger]:
    """Return a ledger without tables."""
    opened = Ledger(url)
    yield opened
    opened.close()


def pragma(ledger: Ledger, name: str) -> object:
    with ledger.read() as transaction:
        return transaction.execute(text(f"PRAGMA {name}")).scalar()


def newest() -> str:
    """Return the revision of the newest migration."""
    return max(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))[:4]


# --- the schema -----------------------------------------------------------------------------------------------------


@pytest.fixture
def migrated(unmigrated: Ledger) -> Ledger:
    """Return a ledger that was created by running all migrations."""
    with unmigrated._engine.connect() as connection:
        upgrade(connection)
        connection.commit()
    return unmigrated


def test_a_new_ledger_begins_with_the_revision_of_the_newest_migration() -> None:
    """Verified to fail when a migration is added without a new REVISION."""
    assert newest() == REVISION


def test_the_migrations_create_exactly_the_tables_of_the_schema(migrated: Ledger) -> None:
    """Every change of a table has a migration."""
    with migrated.read() as transaction:
        context = MigrationContext.configure(transaction, opts={"compare_type": True})
        assert [] == compare_metadata(context, metadata)


def test_the_migrations_give_the_same_create_statements_as_the_schema(migrated: Ledger, tmp_path: Path) -> None:
    """The statements include defaults, conditions of partial indexes, AUTOINCREMENT and foreign keys."""
    direct = Ledger(f"sqlite:///{tmp_path / 'direct.sqlite'}")
    with direct.write() as transaction:
        create(transaction)
    assert statements(direct) == statements(migrated)
    assert indexes_in_order(direct) == indexes_in_order(migrated)
    direct.close()


def indexes_in_order(ledger: Ledger) -> list[str]:
    """Return the names of the indexes in the order of their creation.

    SQLite prefers the newer of two indexes with the same cost.
    """
    query = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY rowid"
    with ledger.read() as transaction:
        return list(transaction.execute(text(query)).scalars())


def statements(ledger: Ledger) -> dict[str, list[str]]:
    """Return the sorted words of the statement of each table and index: the order of constraints does not matter."""
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
    with ledger.read() as transaction:
        return {name: sorted(re.findall(r"[^\s,()]+|[()]", sql)) for name, sql in transaction.execute(text(query))}


def test_migrating_again_changes_nothing(ledger: Ledger, an_instance: MakeInstance) -> None:
    """Every start calls `migrate`; the rows of the ledger do not change."""
    with ledger.write() as transaction:
        kept = instances.insert(transaction, an_instance())
    before = statements(ledger)
    ledger.migrate()
    with ledger.read() as transaction:
        assert [kept] == instances.arrived_after(transaction, 0, 10)
    assert before == statements(ledger)


def test_a_current_ledger_is_accepted(ledger: Ledger) -> None:
    """`require_current` accepts a migrated ledger."""
    ledger.require_current()


def test_a_ledger_without_tables_is_refused_with_the_next_step(unmigrated: Ledger) -> None:
    """The message of a command that only reads explains how to create the ledger."""
    with pytest.raises(Refused) as refusal:
        unmigrated.require_current()
    assert (
        f"the ledger {unmigrated.url} has schema none, this version needs {newest()}; "
        "start the service once with `dicom-adapter run`, which brings it up to date"
    ) == str(refusal.value)


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    """An older program neither reads nor writes a newer schema. The message names the newer version as the cause.

    Verified to fail when the upgrade is left to Alembic, which raises an error of its own.
    """
    with ledger.write() as transaction:
        transaction.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = statements(ledger)
    for check in (ledger.require_current, ledger.migrate):
        with pytest.raises(Refused, match=rf"has schema 9999, which .* \(its newest is {newest()}\): a newer version"):
            check()
    assert before == statements(ledger)


def test_an_earlier_ledger_is_refused_by_commands_that_only_read(ledger: Ledger) -> None:
    """The service upgrades it."""
    with ledger.write() as transaction:
        transaction.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(Refused, match=f"has schema 0001, this version needs {newest()}; start the service once"):
        ledger.require_current()


def test_a_database_of_another_program_is_not_changed(unmigrated: Ledger) -> None:
    """Verified to fail when a database that has tables, but no revision, is upgraded."""
    with unmigrated.write() as transaction:
        transaction.execute(text("CREATE TABLE patients (name TEXT)"))
    before = statements(unmigrated)
    with pytest.raises(Refused, match="it belongs to another program; name another file"):
        unmigrated.migrate()
    assert before == statements(unmigrated)


@pytest.mark.parametrize(
    "name", ["a?b", "a#b", "a%20b", "a b", "ä", "a:b@c", ":memory:", "file:x", "a&b=c;d", "'\"", "a\nb"]
)
def test_the_folder_of_a_ledger_may_have_any_name(tmp_path: Path, name: str) -> None:
    """The database is in the file of the URL. Verified to fail when SQLAlchemy parses the URL."""
    folder = tmp_path / name
    folder.mkdir()
    url = default_ledger_url(folder)
    assert not exists(url)
    ledger = Ledger(url, durable=False)
    ledger.migrate()
    ledger.free_bytes()
    assert exists(url)
    ledger.close()
    assert [folder] == list(tmp_path.iterdir())
    assert (folder / "ledger.sqlite").read_bytes().startswith(b"SQLite format 3\0")


@pytest.mark.parametrize("content", [None, b"this is not a database, whatever its name may say. " * 40])
def test_a_ledger_that_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path, content: bytes | None) -> None:
    """A missing folder or another kind of file is reported as a mistake of the operator, without a traceback."""
    path = tmp_path / "ledger.sqlite" if content else tmp_path / "missing" / "ledger.sqlite"
    if content:
        path.write_bytes(content)
    ledger = Ledger(f"sqlite:///{path}")
    with pytest.raises(Refused, match=r"the ledger sqlite:.* cannot be opened: .*(unable to open|not a database)"):
        ledger.require_current()
    ledger.close()


def test_a_check_for_a_ledger_creates_no_file(url: str, tmp_path: Path) -> None:
    """`exists` creates no file."""
    assert not exists(url)
    assert [] == list(tmp_path.iterdir())
    (tmp_path / "ledger.sqlite").touch()
    assert exists(url)


# --- transactions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
def test_each_commit_is_synced_if_it_must_survive_a_power_loss(url: str, durable: bool, synchronous: int) -> None:
    """FULL syncs every commit of the write-ahead log, NORMAL does not."""
    ledger = Ledger(url, durable=durable)
    assert synchronous == pragma(ledger, "synchronous")
    assert "wal" == pragma(ledger, "journal_mode")
    assert 1 == pragma(ledger, "foreign_keys")
    ledger.close()


def test_a_write_that_raises_changes_nothing(ledger: Ledger, an_instance: MakeInstance) -> None:
    """A failed transaction changes nothing, and the next one can write at once."""
    with pytest.raises(ZeroDivisionError), ledger.write() as transaction:
        instances.insert(transaction, an_instance())
        raise ZeroDivisionError
    with ledger.write() as transaction:
        assert [] == instances.arrived_after(transaction, 0, 10)
        assert 1 == instances.insert(transaction, an_instance()).instance_id


def test_a_reader_sees_one_snapshot_and_does_not_block_writers(ledger: Ledger, an_instance: MakeInstance) -> None:
    """A commit during a read is visible to the next read only."""
    with ledger.read() as reading:
        assert 0 == instances.last_number(reading)
        with ledger.write() as writing:
            instances.insert(writing, an_instance())
        assert 0 == instances.last_number(reading)
    with ledger.read() as reading:
        assert 1 == instances.last_number(reading)


WRITER = """
import sys
from sqlalchemy import text
from dicom_adapter.ledger import Ledger

url, name, transactions = sys.argv[1:]
ledger = Ledger(url)
ledger.migrate()
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(transactions)):
    with ledger.write() as transaction:
        last = transaction.execute(text("SELECT COALESCE(MAX(event_id), 0) FROM events")).scalar()
        transaction.execute(
            text("INSERT INTO events (event_id, at, event, ae_title, detail) VALUES (:id, 0, :name, 'LUNG', '{}')"),
            {"id": last + 1, "name": name},
        )
ledger.close()
"""


def test_two_processes_that_write_at_once_both_succeed(url: str) -> None:
    """Transactions that read first and then write are serialized; both processes create the schema without failing."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, name, "150"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert "ready\n" == writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [0, 0] == [writer.returncode for writer in writers]
    ledger = Ledger(url)
    with ledger.read() as transaction:
        counted = transaction.execute(text("SELECT event, COUNT(*) FROM events GROUP BY event ORDER BY event"))
        assert [("one", 150), ("two", 150)] == [tuple(row) for row in counted]
    ledger.close()


def test_a_synced_transaction_fails_if_pragma_synchronous_cannot_be_set(unmigrated: Ledger) -> None:
    """The pragma is set when a synced transaction follows an unsynced one. After a failure, the next one sets it."""

    class FailingConnection:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def cursor(self) -> Any:
            raise sqlite3.OperationalError("disk I/O error")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    with unmigrated.write(synced=False) as transaction:
        writer = transaction
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(type(writer), "connection", property(lambda _self: FailingConnection(None)))
        with pytest.raises(LedgerUnavailable), unmigrated.write():
            pass
    with unmigrated.write() as transaction:
        assert 2 == transaction.exec_driver_sql("PRAGMA synchronous").scalar()
