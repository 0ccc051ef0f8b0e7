"""The lock of a ledger, which two services with different data folders could share by mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_adapter.runtime import ledger_lock
from dicom_adapter.runtime.ledger_lock import LedgerLock

HOLDER = """
import sys
from pathlib import Path
from dicom_adapter.runtime.ledger_lock import LedgerLock

with LedgerLock(Path(sys.argv[1]), Path("/first")).hold() as refusal:
    print(refusal or "held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_lock, "LOCK_PAUSE_SECONDS", 0.0)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_second_process_learns_who_holds_the_lock(database: Path) -> None:
    """The lock is free again when its process has ended, in whatever way. Verified to fail without flock(2)."""
    command = [sys.executable, "-c", HOLDER, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert "held\n" == first.stdout.readline()
        with LedgerLock(database, Path("/second")).hold() as refusal:
            holder = f"another dicom-adapter (PID {first.pid}) with the data folder /first"
            assert f"{holder} is already using the ledger {database}" == refusal
        first.kill()
    with LedgerLock(database, Path("/second")).hold() as refusal:
        assert "" == refusal
    assert not database.exists()


def test_links_to_a_ledger_have_its_lock(database: Path, tmp_path: Path) -> None:
    """Verified to fail when the path is not resolved."""
    (tmp_path / "other").mkdir()
    link = tmp_path / "other" / "link.sqlite"
    link.symlink_to(database)
    with LedgerLock(database, tmp_path).hold(), LedgerLock(link, tmp_path).hold() as refusal:
        assert f"PID {os.getpid()}" in refusal


def test_ledgers_in_one_folder_have_locks_of_their_own(database: Path, tmp_path: Path) -> None:
    with LedgerLock(database, tmp_path).hold(), LedgerLock(tmp_path / "other.sqlite", tmp_path).hold() as refusal:
        assert "" == refusal


@pytest.mark.parametrize("content", ["", "1234", "{}"])
def test_a_holder_that_has_not_written_its_name_is_unknown(database: Path, tmp_path: Path, content: str) -> None:
    with LedgerLock(database, tmp_path).hold():
        (tmp_path / "host.ledger.sqlite.lock").write_text(content, encoding="utf-8")
        with LedgerLock(database, tmp_path).hold() as refusal:
            assert f"another dicom-adapter is already using the ledger {database}" == refusal


def test_a_query_finds_the_holder_and_creates_nothing(database: Path, tmp_path: Path) -> None:
    """The folder may be a mount point without its disk. Verified to fail when the query creates the file."""
    lock = LedgerLock(database, tmp_path)
    assert ["", ""] == [LedgerLock(None, tmp_path).refusal(), lock.refusal()]
    assert [] == list(tmp_path.iterdir())
    with lock.hold():
        assert f"PID {os.getpid()}" in lock.refusal()
    assert "" == lock.refusal()


def test_without_its_folder_a_ledger_has_no_lock(tmp_path: Path) -> None:
    """Opening the ledger reports the reason. Nothing is created on a disk that may be missing."""
    for path in (None, tmp_path / "missing" / "ledger.sqlite"):
        with LedgerLock(path, tmp_path).hold() as refusal:
            assert "" == refusal
    assert [] == list(tmp_path.iterdir())
