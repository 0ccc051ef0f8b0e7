"""Two services with one ledger, and ledgers beside storages that do not belong to them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_adapter.service.launch import LaunchedService, ServiceEnded
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, write_study

CONFIGURATION = STORAGE + "[ae-titles.LUNG.settings]\ntimeout = 600\npipeline-a = 'pipeline-1'\n"


def with_ledger(path: Path) -> str:
    return f"{CONFIGURATION}[ledger]\nurl = 'sqlite:///{path}'\n"


def refusal_of(service: LaunchedService) -> str:
    """Wait until the service has refused to start, and return its message."""
    assert 1 == service.wait()
    with pytest.raises(ServiceEnded) as ended:
        service.port()
    return str(ended.value)


def data_of(service: LaunchedService) -> Path:
    return service.configuration.parent / "data"


def run(service: LaunchedService, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dicom_adapter", *arguments, str(service.configuration)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("storage", ["new", "used"])
def test_a_second_service_with_the_same_ledger_is_refused_with_the_pid_of_the_first(
    launch_service: LaunchService, tmp_path: Path, storage: str
) -> None:
    """The second service is refused with a new and with an existing data folder. The first is not affected.

    Verified to fail without the lock of the ledger.
    """
    configuration = with_ledger(tmp_path / "ledger.sqlite")
    if storage == "used":
        service = launch_service(CONFIGURATION, name="second")
        service.port()
        assert 0 == service.stop()
    first = launch_service(configuration, name="first")
    first.port()
    second = launch_service(configuration, name="second")
    holder = f"another dicom-adapter (PID {first.pids()[0]}) with the data folder {data_of(first)}"
    assert f"{holder} is already using the ledger {tmp_path / 'ledger.sqlite'}" in refusal_of(second)
    assert [True] * 2 == [result.ok for result in send(write_study(tmp_path / "study"), first, "LUNG")]
    assert 2 == run(second, "audit", "--repair").returncode
    assert 0 == first.stop()


def test_a_ledger_beside_a_foreign_storage_is_refused_until_a_repair(
    launch_service: LaunchService, tmp_path: Path
) -> None:
    """Verified to fail when the ledger does not record its storage."""
    first = launch_service(with_ledger(tmp_path / "ledger.sqlite"), name="first")
    send(write_study(tmp_path / "study"), first, "LUNG")
    assert 0 == first.stop()
    second = launch_service(CONFIGURATION, name="second")
    second.port()
    assert 0 == second.stop()
    mixed = launch_service(with_ledger(tmp_path / "ledger.sqlite"), name="second")
    message = refusal_of(mixed)
    assert "the ledger belongs to another storage" in message
    assert "audit --repair" in message
    assert 0 == run(mixed, "audit", "--repair").returncode
    again = launch_service(with_ledger(tmp_path / "ledger.sqlite"), name="second")
    again.port()
    assert 0 == again.stop()


def test_instances_that_were_restored_without_their_ledger_are_refused(
    launch_service: LaunchService, tmp_path: Path
) -> None:
    service = launch_service(with_ledger(tmp_path / "ledger.sqlite"))
    service.port()
    assert 0 == service.stop()
    data = data_of(service)
    backup = Path(shutil.copytree(data, tmp_path / "backup"))
    service = launch_service(with_ledger(tmp_path / "ledger.sqlite"))
    send(write_study(tmp_path / "study"), service, "LUNG")
    assert 0 == service.stop()
    kept = data.rename(tmp_path / "kept")
    shutil.copytree(backup, data)
    refused = launch_service(with_ledger(tmp_path / "ledger.sqlite"))
    assert "the storage is older than the ledger" in refusal_of(refused)
    shutil.rmtree(data)
    kept.rename(data)
    again = launch_service(with_ledger(tmp_path / "ledger.sqlite"))
    again.port()
    assert 0 == again.stop()
