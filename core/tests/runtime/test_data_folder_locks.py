"""Host and receivers share a data folder. A repair uses it exclusively."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from dicom_adapter.runtime.data_folder import DataFolder, with_pids


def test_several_processes_share_a_folder_and_none_can_lock_it_exclusively(tmp_path: Path) -> None:
    """The folder can be locked exclusively when the last of these processes has ended."""
    folder = DataFolder(tmp_path / "data")
    folder.path.mkdir()
    with ExitStack() as second:
        with folder.shared() as first_works:
            second_works = second.enter_context(folder.shared())
        assert (True, True, True) == (first_works, second_works, folder.is_used)
        with folder.exclusive() as got_lock:
            assert not got_lock
    assert not folder.is_used


def test_a_check_creates_no_file(tmp_path: Path) -> None:
    """The check may run as another user than the service."""
    folder = DataFolder(tmp_path / "data")
    assert (False, False, False) == (folder.is_used, folder.has_host, folder.has_service)
    assert ([], []) == (folder.service_pids, folder.user_pids)
    assert [] == list(tmp_path.iterdir())


def test_no_process_starts_while_the_folder_is_locked_exclusively(tmp_path: Path) -> None:
    """Neither a process of the service nor another repair can start."""
    folder = DataFolder(tmp_path, lock_pause_seconds=0)
    with folder.exclusive() as got_lock, folder.exclusive() as second, folder.shared() as may_work:
        assert (True, False, False) == (got_lock, second, may_work)
    with folder.shared() as may_work:
        assert may_work


def test_only_one_host_can_run(tmp_path: Path) -> None:
    """Two hosts would deliver every instance twice. A receiver is not a host."""
    folder = DataFolder(tmp_path, lock_pause_seconds=0)
    with folder.shared():
        assert not folder.has_host
        with folder.as_host() as first, folder.as_host() as second:
            assert (True, False, True) == (first, second, folder.has_host)
    assert not folder.has_host


def test_the_pid_of_the_service_is_known_while_its_host_holds_the_lock(tmp_path: Path) -> None:
    """A host that starts does not report the PID of an earlier service. Verified to fail without the record."""
    folder = DataFolder(tmp_path)
    marker = folder.prepare(is_new=True)
    with folder.as_host(4711):
        folder.record_open_files(marker)
        assert [4711] == folder.service_pids
    assert [] == folder.service_pids
    with folder.as_host(4712):
        assert [4712] == folder.service_pids


def test_the_lock_of_a_host_of_an_earlier_version_has_no_pid(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with folder.as_host():
        (tmp_path / "host.lock").write_text('[["/data/host.lock", 1, 2]]', encoding="utf-8")
        assert ([], "") == (folder.service_pids, folder.displaced())


def test_a_supervisor_is_seen_until_it_ends(tmp_path: Path) -> None:
    """The host may die while the supervisor runs. Without the file of the supervisor's lock, the host's lock counts."""
    folder = DataFolder(tmp_path, lock_pause_seconds=0)
    with folder.as_host():
        assert folder.has_service
    with folder.as_service():
        assert (True, False) == (folder.has_service, folder.has_host)
    with folder.as_host():
        assert not folder.has_service


def test_a_supervisor_runs_without_its_lock(tmp_path: Path) -> None:
    """The lock cannot be created while the folder is missing or not writable."""
    with DataFolder(tmp_path / "missing").as_service():
        assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("lock", ["shared", "as_host"])
def test_a_check_does_not_keep_the_service_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """A process that finds the folder locked retries for a moment.

    Verified to fail when the process tries only once.
    """
    folder, checking = DataFolder(tmp_path), ExitStack()
    checking.enter_context(folder.exclusive() if lock == "shared" else folder.as_host())
    monkeypatch.setattr("time.sleep", lambda _seconds: checking.close())
    with getattr(folder, lock)() as may_work:
        assert may_work


def test_a_process_that_is_killed_releases_its_lock(tmp_path: Path) -> None:
    """The operating system releases the lock."""
    code = (
        "import pathlib; from dicom_adapter.runtime.data_folder import DataFolder; "
        f"used = DataFolder(pathlib.Path({str(tmp_path)!r})).shared(); print(used.__enter__()); input()"
    )
    folder = DataFolder(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # stdout is a pipe
        assert "True\n" == process.stdout.readline()
        assert folder.is_used
        assert ([], [process.pid]) == (folder.service_pids, folder.user_pids)
        assert f"the service (PID {process.pid})" == with_pids("the service", folder.user_pids)
        process.kill()
        process.wait()
        assert not folder.is_used


def test_a_host_whose_folder_was_replaced_by_a_copy_is_found(tmp_path: Path) -> None:
    """The copy of its lock is not locked. When the host has ended, the copy is a folder like any other.

    Verified to fail when the host is searched by the lock in the folder.
    """
    folder = DataFolder(tmp_path / "data")
    marker = folder.prepare(is_new=True)
    with folder.as_host():
        folder.record_open_files(marker)
        assert "" == folder.displaced()
        folder.path.rename(tmp_path / "away")
        shutil.copytree(tmp_path / "away", folder.path)
        assert not folder.has_host
        assert f"the running service (PID {os.getpid()}) uses other files: " in folder.displaced()
    assert "" == folder.displaced()


def test_a_host_whose_ledger_was_replaced_is_found(tmp_path: Path) -> None:
    (tmp_path / "ledger").touch()
    folder = DataFolder(tmp_path / "data", ledger=tmp_path / "ledger", lock_pause_seconds=0)
    marker = folder.prepare(is_new=True)
    with folder.as_host():
        folder.record_open_files(marker)
        (tmp_path / "ledger").rename(tmp_path / "away")
        (tmp_path / "ledger").touch()
        assert f"{tmp_path / 'ledger'} was replaced" in folder.displaced()
        with folder.as_host() as is_second:  # a second host that does not start keeps the record of the first
            assert not is_second
        assert folder.displaced()
