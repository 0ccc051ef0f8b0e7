"""A receiver makes instances durable and hands them over to the follower. Its answers do not depend on the ledger."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dicom_adapter.api.errors import LedgerUnavailable, StorageFull
from dicom_adapter.api.receiving import StoreOutcome, StoreResult
from dicom_adapter.flow.enter import instance_log
from dicom_adapter.flow.store import commit
from dicom_adapter.ledger import arrivals
from dicom_adapter.ledger.instances import UNNUMBERED
from support.follow import CONFIGURATION, Sender, Site, uids

SECONDS = 60.0  # the last sync may have taken this long
LONG = "P" * 5000  # a Patient ID that is too long for a recovery record; it may have any length


@pytest.fixture
def site(make_adapter: Any, tmp_path: Path) -> Iterator[Site]:
    site = Site(make_adapter(CONFIGURATION), tmp_path)
    yield site
    site.follower.close()


def outcomes(results: list[StoreResult] | None) -> list[StoreOutcome]:
    assert results is not None
    return [result.outcome for result in results]


def unconfirmed(site: Site) -> int:
    """Kill the receiver. Return the number of recovery records that the next start must read."""
    site.receiver.kill()
    with site.adapter.storage.unconfirmed_records() as records:
        return len(records)


def failing(*_arguments: object, **_options: object) -> Any:
    raise AssertionError("must not be called")


# --- the answer -------------------------------------------------------------------------------------------------------


def test_a_commit_does_not_use_the_ledger(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be locked, full or broken. Verified to fail when rows are entered before the answer."""
    with monkeypatch.context() as locked:
        locked.setattr(site.adapter.ledger, "write", failing)
        locked.setattr(site.adapter.ledger, "read", failing)
        results = site.receiver.send(*uids(1, 2))
        inline = site.receiver.store.commit_inline([site.receiver.arrive("1.2.3")], SECONDS)
    assert [StoreOutcome.STORED] * 3 == outcomes(results) + outcomes(inline)
    assert {UNNUMBERED} == {result.instance.instance_id for result in results if result.instance}
    assert [] == site.rows
    site.follower.follow()
    assert uids(1, 3) == site.rows


def test_the_answer_follows_the_sync(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line in the journal, too: otherwise the follower could enter a row without an instance."""
    calls = []
    sync, append = site.adapter.storage.sync, site.receiver.log.append
    monkeypatch.setattr(site.adapter.storage, "sync", lambda keys: (calls.append("sync"), sync(keys)))
    monkeypatch.setattr(site.receiver.log, "append", lambda received: (calls.append("append"), append(received)))
    site.receiver.send("1.2.1")
    site.receiver.store.commit_inline([site.receiver.arrive("1.2.2")], SECONDS)
    assert ["sync", "append"] * 2 == calls


@pytest.mark.parametrize("is_inline", [False, True])
def test_instances_that_are_not_handed_over_are_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, *, is_inline: bool
) -> None:
    """The disk is full. The objects are deleted. Verified to fail when the instances are acknowledged."""
    received = [site.receiver.arrive("1.2.1")]
    with monkeypatch.context() as full:
        full.setattr(os, "write", no_space_left)
        store = site.receiver.store
        results = store.commit_inline(received, SECONDS) if is_inline else store.commit(received)
    assert [StoreOutcome.OUT_OF_SPACE] == outcomes(results)
    assert [] == list(site.adapter.storage.keys())
    site.receiver.send("1.2.2")
    site.follower.follow()
    assert ["1.2.2"] == site.rows


def no_space_left(*_arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_sync_has_the_same_result_inline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance is not handed over."""

    def no_space(_keys: object) -> None:
        raise StorageFull("full")

    with monkeypatch.context() as full:
        full.setattr(site.adapter.storage, "sync", no_space)
        results = site.receiver.store.commit_inline([site.receiver.arrive("1.2.1")], SECONDS)
    assert [StoreOutcome.OUT_OF_SPACE] == outcomes(results)
    assert (0, []) == (site.follower.follow(), list(site.adapter.storage.keys()))


# --- instances without a recovery record ------------------------------------------------------------------------------


def test_an_instance_without_a_recovery_record_gets_its_row_before_the_answer(site: Site) -> None:
    """After the rows of the instances before it. It is never committed inline."""
    site.receiver.send("1.2.1")
    site.follower.follow()
    received = site.receiver.arrive("1.2.2", patient=LONG)
    assert site.receiver.store.commit_inline([received], SECONDS) is None
    [result] = site.receiver.store.commit([received])
    assert result.instance is not None and result.instance.instance_id != UNNUMBERED
    assert uids(1, 2) == site.rows


def test_an_instance_without_a_recovery_record_waits_for_the_rows_before_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an older arrival could replace it later. Verified to fail when it does not wait."""
    monkeypatch.setattr(commit, "ENTRY_SECONDS", 0.0)
    group = [site.receiver.arrive("1.2.1"), site.receiver.arrive("1.2.2", patient=LONG), site.receiver.arrive("1.2.3")]
    results = site.receiver.store.commit(group)
    assert [StoreOutcome.STORED, StoreOutcome.OUT_OF_SPACE, StoreOutcome.STORED] == outcomes(results)
    site.follower.follow()
    assert ["1.2.1", "1.2.3"] == site.rows


# --- inline commits ---------------------------------------------------------------------------------------------------


def test_a_slow_storage_is_not_synced_inline(site: Site) -> None:
    """The network thread could serve no other connection during the sync."""
    site.receiver.send("1.2.1")
    for limit, is_inline in [(1000, True), (-1, False)]:
        received = [site.receiver.arrive("1.2.2")]
        assert is_inline == (site.receiver.store.commit_inline(received, limit) is not None)


def test_the_commit_after_a_slow_one_is_not_inline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs stops the network thread once. The next quick commit on the commit thread ends this.

    Verified to fail when the time of the sync is not measured.
    """
    seconds = 1000.0
    monkeypatch.setattr(commit, "time", SimpleNamespace(monotonic=lambda: seconds))
    sync = site.adapter.storage.sync

    def hang(keys: Any) -> None:
        nonlocal seconds
        seconds += 2 * SECONDS
        sync(keys)

    with monkeypatch.context() as hanging:
        hanging.setattr(site.adapter.storage, "sync", hang)
        assert site.receiver.store.commit_inline([site.receiver.arrive("1.2.1")], SECONDS) is not None
    assert site.receiver.store.commit_inline([site.receiver.arrive("1.2.2")], SECONDS) is None
    site.receiver.send("1.2.3")
    assert site.receiver.store.commit_inline([site.receiver.arrive("1.2.4")], SECONDS) is not None


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_recovery_records_are_kept_until_the_follower_has_confirmed_their_rows(site: Site) -> None:
    """Full segments are sealed afterwards, so that starts have little to read.

    Verified to fail when they are sealed after the instances are handed over, or after their rows are entered.
    """
    site.adapter.storage._segments._segment_bytes = 1  # type: ignore[attr-defined] # one instance in each segment
    receiver = site.receive_again(checkpoint_seconds=0)
    site.follower._checkpoint_at = float("inf")
    receiver.send("1.2.1")  # marked
    site.follower.follow()
    receiver.send("1.2.2")  # entered, but not confirmed
    assert not any(is_sealed(path) for path in segments(site))
    site.follower.checkpoint()
    receiver.send("1.2.3")  # confirmed: the first segment is sealed
    assert 1 == sum(is_sealed(path) for path in segments(site))
    assert 2 == unconfirmed(site)


def segments(site: Site) -> list[Path]:
    return sorted((site.adapter.config.storage.path / "instances").glob("*.segment"))


def is_sealed(path: Path) -> bool:
    return path.read_bytes()[32:33] == b"\1"


@pytest.mark.parametrize(("host_runs", "left"), [(True, 0), (False, 2)])
def test_an_orderly_stop_waits_for_a_last_checkpoint(
    site: Site, monkeypatch: pytest.MonkeyPatch, *, host_runs: bool, left: int
) -> None:
    """If the host does not run, the next start reads the recovery records, as after a crash."""
    monkeypatch.setattr(commit, "CLOSE_SECONDS", 0.0)
    site.receiver.send(*uids(1, 2))
    site.receiver.store.end_log(lambda: site.follower.follow() if host_runs else 0)
    site.adapter.storage.close()
    with site.adapter.storage.unconfirmed_records() as records:
        assert left == len(records)


# --- limits of the backlog --------------------------------------------------------------------------------------------


def test_receivers_refuse_while_too_many_instances_wait(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verified to fail when entered instances are counted, too."""
    monkeypatch.setattr(instance_log, "MOST_WAITING", 2)
    site.receiver.send("1.2.1")
    assert "" == site.receiver.log.refusal()
    site.receiver.send("1.2.2")
    assert "2 stored instances wait for their rows in the ledger" == site.receiver.log.refusal()
    site.follower.follow()
    assert "" == site.receiver.log.refusal()


def test_receivers_refuse_while_an_instance_waits_for_too_long(site: Site) -> None:
    """The host is gone, or the ledger is locked. Verified to fail when the time of the newest instance counts."""
    seconds = 100.0
    site.receiver.log._monotonic = lambda: seconds
    site.receiver.send("1.2.1")
    seconds += 61
    site.receiver.send("1.2.2")
    assert "a stored instance has waited for its row in the ledger for 61 s" == site.receiver.log.refusal()
    site.follower.follow()
    assert "" == site.receiver.log.refusal()


def test_receivers_refuse_while_the_ledger_is_full(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, also those without waiting instances.

    Verified to fail when the follower does not report it, and when only receivers with waiting instances accept again.
    """

    def full(*_arguments: object) -> None:
        raise LedgerUnavailable("database or disk is full", is_full=True)

    other = Sender(site.adapter, site.folder, "receiver 2")
    site.receiver.send("1.2.1")
    with monkeypatch.context() as disk, pytest.raises(LedgerUnavailable):
        disk.setattr(arrivals, "enter", full)
        site.follower.follow()
    for sender in (site.receiver, other):
        assert sender.log.refusal().startswith("there is no free space for the ledger")
    site.follower.follow()
    assert ["", ""] == [sender.log.refusal() for sender in (site.receiver, other)]
