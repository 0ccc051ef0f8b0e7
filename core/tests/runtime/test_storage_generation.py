"""The generation of a storage: an old state of the ledger or of the storage is noticed at a start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dicom_adapter.api.errors import LedgerUnavailable, Refused, StorageUnavailable
from dicom_adapter.ledger import Ledger
from dicom_adapter.runtime import storage_generation
from dicom_adapter.runtime.storage_generation import EVERY, StorageGeneration
from dicom_adapter.runtime.storage_marker import create_marker, read_marker
from dicom_adapter.testing import VirtualClock

WAY_OUT = "run `dicom-adapter audit --repair` once"


class Site:
    """A storage and a ledger in folders of their own, which can be restored separately."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.ledger = folder / "storage", folder / "ledger"
        self.ledger.mkdir()
        create_marker(self.storage, durable=False)
        self._open: list[Ledger] = []

    def start(self, *, is_durable: bool = True) -> StorageGeneration:
        """Open the storage and the ledger, as a host does at its start before it uses them."""
        marker = read_marker(self.storage)
        assert marker is not None
        ledger = Ledger(f"sqlite:///{self.ledger / 'ledger.sqlite'}", durable=False)
        ledger.migrate()
        self._open.append(ledger)
        return StorageGeneration(marker, ledger, VirtualClock(), is_durable)

    def use(self) -> None:
        """Run a service for a while."""
        generation = self.start()
        generation.require_match()
        generation.advance()
        generation.finish()
        self.close()

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def back_up(self, name: str) -> Path:
        return Path(shutil.copytree(getattr(self, name), self.storage.parent / f"backup-{name}"))

    def restore(self, name: str, backup: Path) -> None:
        shutil.rmtree(getattr(self, name))
        shutil.copytree(backup, getattr(self, name))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_a_pair_that_was_used_together_matches(site: Site) -> None:
    """Storage and ledger match from the first start on, after every stop and crash, and after a restore of both."""
    for _start in range(3):
        site.use()
    site.start().require_match()
    site.start().advance()  # and a crash
    site.close()
    backups = {name: site.back_up(name) for name in ("storage", "ledger")}
    site.use()
    for name, backup in backups.items():
        site.restore(name, backup)
    site.use()


@pytest.mark.parametrize(
    ("restored", "reason"),
    [
        ("storage", "the storage is older than the ledger"),
        ("ledger", "the ledger is older than the storage"),
    ],
)
def test_an_old_state_of_one_of_both_is_refused(site: Site, restored: str, reason: str) -> None:
    """The start is refused until both are from the same time. Verified to fail when only the identity is compared."""
    site.use()
    backups = {name: site.back_up(name) for name in ("storage", "ledger")}
    site.use()
    site.restore(restored, backups[restored])
    with pytest.raises(Refused) as refusal:
        site.start().require_match()
    assert str(refusal.value).startswith(f"{reason}, as after a restore from a backup (ledger sqlite:///")
    assert WAY_OUT in str(refusal.value)
    site.close()
    other = "ledger" if restored == "storage" else "storage"
    site.restore(other, backups[other])
    site.start().require_match()


def test_an_old_state_is_not_refused_if_a_power_loss_may_have_caused_it(site: Site) -> None:
    """Without syncs, the ledger may lose its last transactions."""
    site.use()
    backup = site.back_up("ledger")
    site.use()
    site.restore("ledger", backup)
    generation = site.start(is_durable=False)
    generation.require_match()
    generation.advance()
    site.start().require_match()


def test_a_foreign_storage_and_a_new_ledger_are_refused(site: Site, tmp_path: Path) -> None:
    """A storage that no service has used is accepted, because an operator has confirmed that it is new.

    Verified to fail when a ledger without a recorded storage is always accepted.
    """
    site.use()
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other")
    new = other.back_up("storage")
    other.use()
    own = site.back_up("storage")
    site.restore("storage", other.storage)
    with pytest.raises(Refused, match="the ledger belongs to another storage"):
        site.start().require_match()
    site.close()
    site.restore("storage", own)
    ledger = site.back_up("ledger")
    (site.ledger / "ledger.sqlite").unlink()
    with pytest.raises(Refused, match="the ledger is new, but the storage belongs to another ledger"):
        site.start().require_match()
    site.close()
    site.restore("ledger", ledger)
    site.restore("storage", new)
    site.use()


def test_a_pair_matches_again_after_it_was_accepted(site: Site) -> None:
    """A repair begins a new generation. A backup from before the repair does not match any longer."""
    site.use()
    backup = site.back_up("ledger")
    site.use()
    site.restore("ledger", backup)
    site.start().advance()
    site.start().require_match()
    site.use()
    site.restore("ledger", backup)
    with pytest.raises(Refused):
        site.start().require_match()


@pytest.mark.parametrize("end", ["before the storage", "after the storage"])
def test_a_crash_between_both_leaves_a_pair_that_matches(site: Site, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verified to fail when the storage is written first."""
    site.use()
    write = storage_generation.write_generation

    def crash(path: Path, generation: int) -> None:
        if end == "after the storage":
            write(path, generation)
        raise KeyboardInterrupt

    with monkeypatch.context() as crashing, pytest.raises(KeyboardInterrupt):
        crashing.setattr(storage_generation, "write_generation", crash)
        site.start().advance()
    site.close()
    site.use()


def test_the_generation_of_a_missing_storage_is_not_written(site: Site) -> None:
    """At a stop this is only logged."""
    site.use()
    generation = site.start()
    site.storage.rename(site.storage.with_name("away"))
    with pytest.raises(StorageUnavailable, match="storage-id is missing"):
        generation.step()
    with capture_logs() as logged:
        generation.finish()
    assert ["generation_not_advanced"] == [entry["event"] for entry in logged]
    assert not site.storage.exists()


def test_a_locked_ledger_does_not_hinder_a_stop(site: Site) -> None:
    site.use()
    generation, other = site.start(), site.start()
    generation.ledger.shorten_waits()
    with other.ledger.write(), capture_logs() as logged:
        generation.finish()
    assert [LedgerUnavailable.__name__] == [entry["error"].split()[0] for entry in logged]
    site.start().require_match()


def test_the_generation_advances_every_hour(site: Site) -> None:
    """A backup that is older than an hour is noticed, although the service was never stopped."""
    generation = site.start()
    assert generation.clock.now() + EVERY == generation.step()
    backup = site.back_up("storage")
    generation.step()
    site.restore("storage", backup)
    with pytest.raises(Refused):
        site.start().require_match()
