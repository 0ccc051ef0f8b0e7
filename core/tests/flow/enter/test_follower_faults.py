"""Faults while acknowledged instances wait for their rows: of the ledger, of the storage, and of the clock.

No acknowledged instance is lost: its row is entered when the fault has gone, or an audit finds what is missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import StoreOutcome
from dicom_adapter.ledger import instances
from dicom_adapter.operations.audit import Audit, Kind
from dicom_adapter.operations.repair import Repair
from dicom_adapter.storage.local.segment import BLOCK
from support.follow import CONFIGURATION, Site, uids


@pytest.fixture
def site(make_adapter: Any, tmp_path: Path) -> Iterator[Site]:
    site = Site(make_adapter(CONFIGURATION + "[ledger]\nurl = 'sqlite:///ledger.sqlite'\n"), tmp_path)
    yield site
    site.follower.close()


# --- the ledger -------------------------------------------------------------------------------------------------------


def execute(site: Site, statement: str) -> Any:
    """Execute a statement on the connection with which the ledger writes, outside of its transactions."""
    writer = site.adapter.ledger._writer
    assert writer is not None  # because the ledger has been written
    return writer.connection.cursor().execute(statement).fetchone()


@contextmanager
def read_only(site: Site) -> Iterator[None]:
    execute(site, "PRAGMA query_only = ON")
    yield
    execute(site, "PRAGMA query_only = OFF")


@contextmanager
def full(site: Site) -> Iterator[None]:
    [pages] = execute(site, "PRAGMA page_count")
    execute(site, f"PRAGMA max_page_count = {pages}")
    yield
    execute(site, "PRAGMA max_page_count = 1000000")


@contextmanager
def damaged(site: Site) -> Iterator[None]:
    """Overwrite all pages of the ledger. At the end, put them back, as a restored disk does."""
    path = site.adapter.config.storage.path.parent / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as other:  # another process, so that the write-ahead log is not deleted
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        site.adapter.ledger.close()  # its connections have copies of the pages
        content = path.read_bytes()
        path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
        yield
        site.adapter.ledger.close()
        path.write_bytes(content)
        with site.adapter.ledger.read():
            pass  # the ledger is open again before the other process closes it


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (read_only, "attempt to write a readonly database"),
        (full, "database or disk is full"),
        (damaged, "database disk image is malformed"),
    ],
)
def test_instances_are_acknowledged_although_the_ledger_cannot_be_written(
    site: Site, fault: Callable[[Site], AbstractContextManager[None]], message: str
) -> None:
    """All rows are entered in their order when the ledger can be written again. Then no instance is refused.

    Receivers refuse further instances at once if the ledger is full, otherwise after a minute.
    """
    seconds = 0.0
    site.receiver.log._monotonic = lambda: seconds
    site.receiver.send(*uids(1, 2))
    site.follower.follow()
    count = 2
    with fault(site):
        with pytest.raises(LedgerUnavailable, match=message):
            while count < 200:  # a full ledger may have free pages
                count += 1
                [result] = site.receiver.send(f"1.2.{count}")
                assert StoreOutcome.STORED is result.outcome
                site.follower.follow()
        assert (fault is full) == bool(site.receiver.log.refusal())
        seconds += 61
        assert "" != site.receiver.log.refusal()
    assert 1 == site.follower.follow()
    assert "" == site.receiver.log.refusal()
    assert uids(1, count) == site.rows


# --- the storage ------------------------------------------------------------------------------------------------------


def segment(site: Site) -> Path:
    [path] = (site.adapter.config.storage.path / "instances").glob("*.segment")
    return path


def delete(site: Site) -> None:
    segment(site).unlink()


def tear(site: Site) -> None:
    """Erase the blocks of the last record, as if the disk had lost them."""
    path = segment(site)
    content = path.read_bytes()
    key = max(site.adapter.storage.keys(), key=lambda key: int(key[33:], 16))
    begin = int(key[33:], 16) * BLOCK
    path.write_bytes(content[:begin] + b"\0" * BLOCK + content[begin + BLOCK :])


@pytest.mark.parametrize(("fault", "lost"), [(delete, 3), (tear, 1)])
@pytest.mark.parametrize("is_killed", [False, True])
def test_lost_objects_of_instances_without_a_row_are_reported(
    site: Site, fault: Callable[[Site], None], lost: int, *, is_killed: bool
) -> None:
    """A segment was deleted by hand, or is torn. The rows are entered, so the loss is known.

    Verified to fail when the follower skips instances without an object.
    """
    site.receiver.send(*uids(1, 3))
    fault(site)
    if is_killed:
        site.receiver.kill()
        site.receive_again()
        site.follow_again()
    site.follower.follow()
    assert set(uids(1, 3)) == set(site.rows)
    report = Audit(site.adapter.resources, is_running=lambda: False).run()
    assert {Kind.MISSING: lost} == {kind: found.count for kind, found in report.found.items()}


def seal(site: Site) -> None:
    site.adapter.storage.mark().confirm()
    site.adapter.storage.close()


def test_a_segment_that_is_sealed_too_early_loses_no_row(site: Site) -> None:
    """A start does not read the recovery records of a sealed segment. The rows are entered from the journal."""
    site.receiver.send(*uids(1, 3))
    seal(site)
    site.receiver.kill()
    assert 0 == site.receive_again().recovered
    assert 3 == site.follower.follow()
    assert uids(1, 3) == site.rows


def test_a_repair_enters_the_rows_of_a_segment_that_was_sealed_too_early(site: Site) -> None:
    """A power loss has erased the journal, too."""
    site.receiver.send(*uids(1, 3))
    seal(site)
    site.receiver.kill()
    for path in site.folder.iterdir():
        path.unlink()
    site.receive_again()
    site.follow_again()
    assert 0 == site.follower.follow()
    audit = Audit(site.adapter.resources, is_running=lambda: False)
    report = audit.run()
    assert {Kind.ORPHAN: 3} == {kind: found.count for kind, found in report.found.items()}
    assert [True] * 3 == [result.repaired for result in Repair(site.adapter.resources).run(report)]
    assert {"quarantined": 3} == site.adapter.states


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_clock_that_is_put_back_before_rows_are_entered(site: Site, *, is_killed: bool) -> None:
    """The rows keep the order of arrival, and none has a time in the future, also after a kill of the receiver.

    Verified to fail when rows keep the times in their records.
    """
    clock = site.adapter.clock
    site.receiver.send(*uids(1, 1))
    site.follower.follow()
    clock.move_to(clock.now() + timedelta(hours=2))
    site.receiver.send(*uids(2, 3))
    clock.move_to(clock.now() - timedelta(hours=1))
    site.receiver.send(*uids(4, 4))
    if is_killed:
        site.receiver.kill()
        site.follow_again()
    site.follower.enter_until(clock.now())
    assert uids(1, 4) == site.rows
    with site.adapter.ledger.read() as transaction:
        times = [row.received_at for row in instances.pending_after(transaction, 0, 10, "KEEP")]
    assert sorted(times) == times
    assert times[-1] <= clock.now()
