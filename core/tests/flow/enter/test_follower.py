"""The follower enters the rows of journals: each once, in order, also after crashes of any process."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.flow.enter import follower
from dicom_adapter.flow.enter.journal import RESERVED_BYTES, JournalReader, JournalWriter, journals
from dicom_adapter.flow.enter.progress import FollowerProgress, open_progress, progress_path
from dicom_adapter.flow.process.inbox import Inbox, LaneStart
from dicom_adapter.host.draining import Drain
from dicom_adapter.ledger import arrivals, instances, receiver_runs
from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.ledger.microseconds import to_microseconds
from support.follow import CONFIGURATION, Sender, Site, uids


@pytest.fixture
def site(make_adapter: Any, tmp_path: Path) -> Iterator[Site]:
    site = Site(make_adapter(CONFIGURATION), tmp_path)
    yield site
    site.follower.close()


def unavailable(*_arguments: object, **_options: object) -> None:
    raise LedgerUnavailable("the ledger is locked", is_busy=True)


def test_rows_are_entered_in_the_order_of_the_journal(site: Site) -> None:
    """The high-water mark is that of the last row, and the follower reports its progress."""
    site.receiver.send(*uids(1, 3))
    assert [] == site.rows
    assert 3 == site.follower.follow()
    site.receiver.send(*uids(4, 5))
    assert 2 == site.follower.follow()
    assert 0 == site.follower.follow()
    assert uids(1, 5) == site.rows == site.entered
    assert ({site.receiver.run: 5}, 5) == (site.marks, site.progress.entered)


def test_another_host_continues_at_the_high_water_mark(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the host was killed after a transaction, before it reported it.

    Verified to fail when the high-water mark is not read.
    """
    monkeypatch.setattr(follower, "BATCH", 2)
    site.receiver.send(*uids(1, 5))
    write = FollowerProgress.write

    def killed(progress: FollowerProgress, descriptor: int) -> None:
        if progress.entered == 4:
            raise KeyboardInterrupt
        write(progress, descriptor)

    with monkeypatch.context() as kill, pytest.raises(KeyboardInterrupt):
        kill.setattr(FollowerProgress, "write", killed)
        site.follower.follow()
    assert (uids(1, 4), 2) == (site.rows, site.progress.entered)
    site.follow_again()
    assert 1 == site.follower.follow()
    assert uids(1, 5) == site.rows


def test_another_host_begins_after_the_confirmed_lines(site: Site) -> None:
    """So it reads no journal of a whole day again, and confirmed lines may be freed."""
    site.receiver.send(*uids(1, 3))
    site.follower.follow()
    site.follower.checkpoint()
    site.receiver.send(*uids(4, 4))
    confirmed = site.progress.position
    assert 0 < confirmed < site.receiver.journal.stat().st_size
    with site.receiver.journal.open("r+b") as journal:
        journal.write(bytes(confirmed))  # as a hole is read
    site.follow_again()
    assert 1 == site.follower.follow()
    assert uids(1, 4) == site.rows


def test_confirmed_lines_are_freed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver may run for months. Verified to fail when nothing is freed."""
    monkeypatch.setattr(follower, "FREED_BYTES", 1 << 16)
    for first in range(1, 500, 100):
        site.receiver.send(*uids(first, first + 99))
        site.follower.follow()
        site.follower.checkpoint()
    status = site.receiver.journal.stat()
    assert status.st_blocks * 512 < status.st_size / 2


def test_a_failed_transaction_is_repeated(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is locked for a while. Verified to fail when a batch counts as read before it is entered."""
    site.receiver.send(*uids(1, 2))
    with monkeypatch.context() as locked:
        locked.setattr(arrivals, "enter", unavailable)
        with pytest.raises(LedgerUnavailable):
            site.follower.follow()
    assert ([], {}) == (site.rows, site.marks)
    assert 2 == site.follower.follow()
    assert uids(1, 2) == site.rows


def test_a_row_that_the_ledger_rejects_is_quarantined(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its instance was acknowledged, so it is never skipped. The others are entered.

    Verified to fail when the instance is skipped.
    """
    enter = arrivals.enter

    def rejecting(transaction: Any, rows: Any, reasons: Any, at: int) -> Any:
        if any("1.2.2" in row and not reason for row, reason in zip(rows, reasons, strict=True)):
            raise ValueError("a value cannot be stored")
        return enter(transaction, rows, reasons, at)

    monkeypatch.setattr(arrivals, "enter", rejecting)
    site.receiver.send(*uids(1, 3))
    assert 3 == site.follower.follow()
    assert ["1.2.1", "1.2.3"] == site.rows
    assert {("KEEP", "pending"): 2, ("KEEP", "quarantined"): 1} == counts(site)
    assert 3 == site.progress.entered


def counts(site: Site) -> dict[tuple[str, str], int]:
    with site.adapter.ledger.read() as transaction:
        return {(name, str(state)): count for (name, state), count in instances.count_by_state(transaction).items()}


def test_the_follower_stops_at_a_row_that_cannot_be_quarantined(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part is shown as failing, and the receivers stop when too many instances wait."""
    site.receiver.send(*uids(1, 1))
    with monkeypatch.context() as broken, pytest.raises(ValueError, match="cannot be stored"):
        broken.setattr(arrivals, "enter", refusing)
        site.follower.follow()
    assert 0 == site.progress.entered
    assert 1 == site.follower.follow()


def refusing(*_arguments: object) -> None:
    raise ValueError("a value cannot be stored")


def test_the_rows_of_a_killed_receiver_are_entered_once(site: Site) -> None:
    """The start of the next receiver enters the rest from the segments; the journal offers it again.

    Verified to fail when the high-water mark is not read.
    """
    site.receiver.send(*uids(1, 2))
    site.follower.follow()
    site.receiver.send(*uids(3, 5))
    site.receiver.kill()
    assert 3 == site.receive_again().recovered
    assert 0 == site.follower.follow()
    site.receiver.send(*uids(6, 7))
    assert 2 == site.follower.follow()
    assert uids(1, 7) == site.rows


def test_an_instance_that_was_synced_but_not_handed_over_is_entered_at_the_next_start(site: Site) -> None:
    """The receiver was killed before it appended the line, so it has sent no answer."""
    received = site.receiver.arrive("1.2.1")
    site.adapter.storage.sync([received.storage_key])
    site.receiver.kill()
    assert 0 == site.follower.follow()
    assert 1 == site.receive_again().recovered
    assert ["1.2.1"] == site.rows


def test_an_instance_that_was_handed_over_is_entered_although_its_receiver_was_killed(site: Site) -> None:
    """The host does not wait for the next start of the receiver. Then the released instance gets no second row."""
    site.receiver.send(*uids(1, 2))
    site.receiver.kill()
    assert 2 == site.follower.follow()
    with site.adapter.ledger.write() as transaction:
        pending = instances.pending_after(transaction, 0, 10, "KEEP")
        instances.release(transaction, [row.instance_id for row in pending], site.adapter.clock.now())
    assert set() == site.journal_files
    assert 0 == site.receive_again().recovered
    assert [] == site.rows


def test_marks_are_deleted_when_the_receiver_runs_again(site: Site) -> None:
    """Not before: the start reads the recovery records that the ended run has left.

    Verified to fail when the marks of ended runs are deleted at once.
    """
    site.receiver.send(*uids(1, 2))
    first = site.receiver.run
    other = Sender(site.adapter, site.folder, "receiver 2")
    other.send(*uids(3, 3))
    site.receiver.log.end()
    site.follower.follow()
    site.follower.checkpoint()
    other.send(*uids(4, 4))
    site.follower.follow()
    site.follower.checkpoint()
    assert {first: 2, other.run: 2} == site.marks
    site.receive_again().send(*uids(5, 5))
    site.follower.follow()
    site.follower.checkpoint()
    assert {site.receiver.run: 1, other.run: 2} == site.marks


def test_the_journal_of_an_ended_run_is_deleted_when_its_rows_are_confirmed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified to fail when it is deleted although the checkpoint has failed."""
    site.receiver.send(*uids(1, 2))
    site.receiver.log.end()
    with monkeypatch.context() as locked:
        locked.setattr(receiver_runs, "confirm", unavailable)
        site.follower.follow()
    assert 1 == len(journals(site.folder))
    site.follower.follow()
    assert set() == site.journal_files
    assert (2, 2) == (site.progress.entered, site.progress.confirmed)


def test_progress_is_confirmed_by_a_checkpoint_only(site: Site) -> None:
    """Segments are sealed up to the confirmed number. Verified to fail when entered rows count as confirmed."""
    site.follower._checkpoint_at = float("inf")
    site.receiver.send(*uids(1, 2))
    site.follower.follow()
    assert (2, 0) == (site.progress.entered, site.progress.confirmed)
    site.follower.checkpoint()
    assert (2, 2) == (site.progress.entered, site.progress.confirmed)


def test_nothing_is_confirmed_after_an_error_of_the_disk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later sync may report success for data that is lost. Verified to fail when the checkpoint is repeated."""
    site.receiver.send(*uids(1, 2))
    site.follower._checkpoint_at = float("inf")
    site.follower.follow()

    def fail(*_arguments: object) -> None:
        raise LedgerUnavailable("disk I/O error", is_io_error=True)

    with monkeypatch.context() as broken:
        broken.setattr(receiver_runs, "confirm", fail)
        site.follower.checkpoint()
    site.follower.checkpoint()
    assert (2, 0) == (site.progress.entered, site.progress.confirmed)


def test_what_a_power_loss_has_left_is_deleted(site: Site) -> None:
    """FollowerProgress without a journal, and a journal that a killed receiver has not locked."""
    progress, journal = site.folder / "0-receiver.progress", site.folder / "1-receiver.new"
    progress.touch()
    journal.touch()
    site.follow_again()
    assert {site.receiver.journal, progress_path(site.receiver.journal)} == site.journal_files


# --- time -------------------------------------------------------------------------------------------------------------


def test_no_time_passes_before_the_rows_of_that_time_are_entered(site: Site) -> None:
    """A timer that is due at a time needs all rows of instances that were acknowledged before it."""
    site.follower.follow()
    site.receiver.send(*uids(1, 1))
    due = site.adapter.clock.now() - timedelta(seconds=1)
    site.follower.enter_until(due)
    assert [] == site.rows
    site.follower.enter_until(site.adapter.clock.now() + timedelta(seconds=1))
    assert uids(1, 1) == site.rows


def test_rows_have_the_times_at_which_the_instances_were_complete(site: Site) -> None:
    """The host was gone meanwhile. The journals of several receivers are merged.

    Verified to fail when rows get the time of their entry, and when one journal is read after the other.
    """
    other = Sender(site.adapter, site.folder, "receiver 2")
    times = []
    for number, sender in enumerate([site.receiver, other, site.receiver, other], 1):
        site.adapter.clock.move_to(site.adapter.clock.now() + timedelta(seconds=10))
        times.append(site.adapter.clock.now())
        sender.send(f"1.2.{number}")
    site.adapter.clock.move_to(site.adapter.clock.now() + timedelta(minutes=5))
    assert 4 == site.follower.follow()
    with site.adapter.ledger.read() as transaction:
        rows = instances.pending_after(transaction, 0, 10, "KEEP")
    assert list(zip(uids(1, 4), times, strict=True)) == [(row.sop_instance_uid, row.received_at) for row in rows]
    assert {site.receiver.run: 2, other.run: 2} == site.marks


def test_no_row_is_older_than_the_time_that_has_passed(site: Site) -> None:
    """A group may have become due at that time. Verified to fail when only the time of the record counts."""
    received = site.receiver.arrive("1.2.1")
    site.adapter.clock.move_to(site.adapter.clock.now() + timedelta(seconds=10))
    passed = site.adapter.clock.now()
    site.follower.enter_until(passed)
    site.receiver.store.commit([received])
    site.adapter.clock.move_to(site.adapter.clock.now() + timedelta(seconds=10))
    site.follower.follow()
    assert received.columns["received_at"] < to_microseconds(passed)
    with site.adapter.ledger.read() as transaction:
        [row] = instances.pending_after(transaction, 0, 10, "KEEP")
    assert passed == row.received_at


def test_an_ae_title_is_not_drained_while_its_instances_wait_for_their_rows(site: Site) -> None:
    """They are pending. Verified to fail when only the rows of the ledger are read."""
    resources = evolve(site.adapter.resources, enter_until=site.follower.enter_until)
    drain = Drain(site.adapter.config, Draining(ae_titles=["KEEP"]), resources)
    site.receiver.send("1.2.1")
    assert drain.step() is not None
    assert ("KEEP",) == drain._draining.ae_titles


@pytest.mark.parametrize("due", [True, False])
def test_a_timer_runs_after_the_rows_of_instances_that_were_stored_before_it(site: Site, *, due: bool) -> None:
    """Also if the ledger was read after the timer was due, because of an arrival: rows may have been missing then.

    Verified to fail when every read of the ledger counts.
    """
    passed: list[datetime] = []
    clock, resources = site.adapter.clock, evolve(site.adapter.resources, enter_until=passed.append)
    inbox = Inbox("KEEP", resources, LaneStart(clock.now()))
    timer = clock.now()
    clock.move_to(timer + timedelta(seconds=1))
    inbox.refill(timer if due else None)
    inbox.refill(timer)
    assert [clock.now()] == passed


# --- the journal ------------------------------------------------------------------------------------------------------


def test_a_torn_journal_ends_at_the_torn_line(site: Site) -> None:
    """A power loss erases a block: complete lines may follow it. Verified to fail when a line has no checksum."""
    site.receiver.send(*uids(1, 3))
    path = site.receiver.journal
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:20] + b"\0" * 20 + lines[1][40:] + lines[2])
    assert [1] == [one.number for _end, one in JournalReader(path).read()]


def test_an_incomplete_line_is_read_when_it_is_complete(site: Site) -> None:
    site.receiver.send(*uids(1, 2))
    path = site.receiver.journal
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    reader = JournalReader(path)
    [(reader.position, first)] = reader.read()
    path.write_bytes(data)
    [(reader.position, second)] = reader.read()
    assert (1, 2) == (first.number, second.number)
    assert [] == list(reader.read())


def test_a_failed_append_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full. Verified to fail when the file is not truncated."""
    journal = JournalWriter(tmp_path, "run", "receiver")
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:30]))
        with pytest.raises(OSError, match="No space left"):
            journal.append([("key", b"record")] * 3)
    assert b"" == journal.path.read_bytes()
    journal.close()


def test_a_full_disk_is_noticed_before_a_line_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the follower could enter rows of instances that are refused because of a later line.

    Verified to fail when blocks are allocated by the write.
    """
    journal = JournalWriter(tmp_path, "run", "receiver")
    record = b"r" * RESERVED_BYTES

    def no_space_left(*_arguments: object) -> None:
        assert 0 == journal.path.stat().st_size
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr("dicom_adapter.flow.enter.journal.allocate", no_space_left)
        with pytest.raises(OSError, match="No space left"):
            journal.append([("key", record)])
    journal.append([("key", record)])
    assert journal.path.stat().st_blocks * 512 >= RESERVED_BYTES
    journal.close()


def test_the_progress_of_a_torn_file_is_unknown(tmp_path: Path) -> None:
    descriptor = open_progress(tmp_path / "run-receiver.journal")
    assert FollowerProgress.read(descriptor) is None
    progress = FollowerProgress(entered=3, confirmed=2, position=700, is_ledger_full=True)
    progress.write(descriptor)
    assert progress == FollowerProgress.read(descriptor)
    os.pwrite(descriptor, b"\xff", 3)
    assert FollowerProgress.read(descriptor) is None
    os.close(descriptor)
