"""The instances that are stored, not yet entered: found in the log, and only until they have rows."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter.flow.enter import follower as follower_module
from dicom_adapter.flow.enter import journal as journal_module
from dicom_adapter.flow.enter.instance_log import LONGEST_WAIT_SECONDS, MOST_WAITING
from dicom_adapter.flow.enter.journal import journals
from dicom_adapter.operations import not_entered as module
from dicom_adapter.operations.not_entered import (
    LATE_SECONDS,
    NO_BACKLOG,
    Backlog,
    logged,
    measure_backlog,
    not_entered,
    without_row,
)
from support.follow import CONFIGURATION, Site, uids

NOW = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)


@pytest.fixture
def site(make_adapter: Any) -> Iterator[Site]:
    adapter = make_adapter(CONFIGURATION)
    site = Site(adapter, adapter.config.storage.path)
    yield site
    site.follower.close()


def found(site: Site, *, with_storage: bool = True) -> list[str]:
    storage = site.adapter.storage if with_storage else None
    return [one.sop_instance_uid for one in not_entered(site.folder.parent, storage, site.adapter.ledger)]


def backlog(site: Site) -> Backlog:
    with site.adapter.ledger.read() as transaction:
        return measure_backlog(site.folder.parent, transaction)


def test_instances_are_found_until_they_have_rows(site: Site) -> None:
    """Those of several receiver runs are in the order of arrival."""
    site.receiver.send("1.1", "1.2")
    site.adapter.clock.advance(1)
    site.receive_again().send("1.3")
    assert ["1.1", "1.2", "1.3"] == found(site) == found(site, with_storage=False)
    site.follower.follow()
    assert ([], []) == (found(site), found(site, with_storage=False))
    site.receiver.send("1.4")
    assert ["1.4"] == found(site)


@pytest.mark.parametrize("lost", ["journal", "line"])
def test_instances_that_are_only_in_the_storage_are_found(site: Site, lost: str) -> None:
    """A power loss may destroy a journal or the end of it.

    Verified to fail when the records of the storage backend are not read.
    """
    site.receiver.send("1.1", "1.2")
    journal = site.receiver.journal
    if lost == "journal":
        journal.unlink()
    else:
        journal.write_bytes(journal.read_bytes()[:-1])
    assert ([] if lost == "journal" else ["1.1"]) == found(site, with_storage=False)
    assert ["1.1", "1.2"] == found(site)


def test_an_instance_that_was_stored_when_its_receiver_was_killed_is_found(site: Site) -> None:
    """It was not acknowledged. The next start enters its row."""
    site.adapter.storage.sync([site.receiver.arrive("1.1").storage_key])
    assert ["1.1"] == found(site)


def test_an_instance_that_is_entered_meanwhile_has_a_row(site: Site) -> None:
    """The log is read before the ledger."""
    site.receiver.send("1.1", "1.2")
    instances = logged(site.folder.parent, site.adapter.storage)
    site.follower.follow()
    with site.adapter.ledger.read() as transaction:
        assert [] == without_row(transaction, instances)


def test_lines_that_the_follower_frees_during_the_reading_hide_no_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading begins again behind the freed lines.

    Verified to fail when the journal is read only once.
    """
    monkeypatch.setattr(follower_module, "FREED_BYTES", 1)
    site.receiver.send("1.1", "1.2")
    read = module._progress
    frees: list[Any] = [site.follower.follow]

    def freeing(journal: Path) -> Any:
        progress = read(journal)
        while frees:
            frees.pop()()
            site.follower.checkpoint()
            site.receiver.send("1.3")
        return progress

    monkeypatch.setattr(module, "_progress", freeing)
    assert ["1.3"] == found(site, with_storage=False)


def test_a_deleted_journal_is_no_error(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The follower deletes the journal of an ended run after the list of journals was read."""
    site.receiver.send("1.1")
    missing = site.receiver.journal.with_name("gone-receiver.journal")
    monkeypatch.setattr(module, "journals", lambda folder: [missing, *journals(folder)])
    assert (["1.1"], 1) == (found(site, with_storage=False), backlog(site).count)


# --- backlog ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [journal_module.PIECE, 5000])
def test_the_backlog_has_number_and_age(site: Site, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """The age is that of the oldest instance without a row, in whatever piece of the journal it is."""
    monkeypatch.setattr(journal_module, "PIECE", piece)
    assert NO_BACKLOG == backlog(site)
    site.receiver.send(*uids(1, 20))
    site.follower.follow()
    assert NO_BACKLOG == backlog(site)
    stored_at = site.adapter.clock.now()
    site.receiver.send(*uids(21, 40))
    site.adapter.clock.advance(3)
    site.receive_again().send("1.3")
    waiting = backlog(site)
    assert (21, stored_at) == (waiting.count, waiting.oldest_at)
    assert 3.0 == waiting.age(site.adapter.clock.now())


def test_a_journal_that_cannot_be_read_is_a_problem(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands and pages show everything else."""

    def unreadable(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    site.receiver.send("1.1")
    monkeypatch.setattr(module, "JournalReader", unreadable)
    problem = backlog(site).problem(NOW, is_running=True)
    assert problem.startswith("it is unknown how many instances are stored, not yet entered: ")


def late(seconds: float, **values: Any) -> Backlog:
    return Backlog(**{"count": 2, "oldest_at": NOW - timedelta(seconds=seconds), **values})


@pytest.mark.parametrize(
    ("waiting", "reason", "refuses"),
    [
        (NO_BACKLOG, "", False),
        (late(LATE_SECONDS), "", False),
        (late(-5), "", False),
        (
            late(LATE_SECONDS + 2, count=1),
            "1 instance is stored, not yet entered in the ledger, the oldest for 12 s",
            False,
        ),
        (
            late(LONGEST_WAIT_SECONDS + 1),
            "2 instances are stored, not yet entered in the ledger, the oldest for 61 s; receivers refuse more "
            "instances until their rows are entered",
            True,
        ),
        (
            late(0, is_ledger_full=True),
            "2 instances are stored, not yet entered in the ledger, because the ledger has no free space, the oldest "
            "for 0 s; receivers refuse more instances until their rows are entered",
            True,
        ),
        (
            late(1, count=MOST_WAITING),
            f"{MOST_WAITING} instances are stored, not yet entered in the ledger, the oldest for 1 s; receivers refuse "
            "more instances until their rows are entered",
            True,
        ),
    ],
)
def test_a_backlog_is_a_problem_when_it_is_late_or_large(waiting: Backlog, reason: str, refuses: bool) -> None:
    """Receivers refuse instances if the backlog is too old or too large. Usually it is milliseconds old."""
    assert (reason, refuses) == (waiting.problem(NOW, is_running=True), waiting.refuses(NOW))


def test_a_backlog_of_a_stopped_service_waits_for_the_next_start() -> None:
    """Its age is no problem: nothing is received meanwhile."""
    reason = "2 instances are stored, not yet entered in the ledger: the service enters their rows when it starts"
    assert reason == late(9999).problem(NOW, is_running=False)
    assert "" == NO_BACKLOG.problem(NOW, is_running=False)
