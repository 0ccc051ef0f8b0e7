"""`dicom-adapter backup` while a real service receives and reclaims, and `dicom-adapter restore` elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from receive_instances import encode
from receive_link import Link, LinkFailed
from receive_pdus import make_uid, store_request
from sqlalchemy import select
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.schema import instances as table
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, send, write_study

DOWN = """
[submitters.down]
type = "clara-rest"
endpoint = "http://127.0.0.1:9"

"""
AE_TITLES = """
[ae-titles.LUNG]
submitter = "platform"
settings = { group-by = "study", timeout = 5, pipeline-a = "pipeline-1" }

[ae-titles.WAIT]
submitter = "platform"
settings = { group-by = "study", timeout = 3600, pipeline-a = "pipeline-1" }

[ae-titles.DOWN]
submitter = "down"
settings = { group-by = "study", timeout = 5, pipeline-a = "pipeline-1" }
"""
STUDY = 20  # instances of a study
IMAGE = encode(64)
UP_AGAIN = '\n[submitters.down]\ntype = "fake"\nfolder = "platform"\n'


def run(*arguments: object, status: int = 0) -> Result:
    """Run a command in this process, and check its exit status."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert status == result.exit_code, result.output
    return result


def run_as_json(*arguments: object, config: Path, status: int = 0) -> Any:
    """Run a command, and return its JSON output."""
    return json.loads(run(*arguments, "--config", config, "--json", status=status).stdout)


@contextmanager
def traffic(service: LaunchedService, *ae_titles: str) -> Iterator[tuple[list[str], threading.Event]]:
    """Send studies to each AE title. Yield the growing list of the acknowledged instances, and the event that stops it.

    Each study has 20 instances and an association of its own.
    """
    acknowledged: list[str] = []
    stopped = threading.Event()
    port = service.port()

    def send_studies(sender: int, ae_title: str) -> None:
        for study in count(sender * 10**6):
            message = store_request(IMAGE, make_uid(2, study), make_uid(3, study), 16384)
            try:
                with Link(port, ae_title) as link:
                    for number in range(STUDY):
                        uid = make_uid(1, study * STUDY + number)
                        link.store(message.rename(uid))
                        acknowledged.append(uid)
            except (LinkFailed, OSError):
                assert stopped.is_set(), "an instance was not acknowledged"  # else the service was killed
            if stopped.is_set():
                return

    with ThreadPoolExecutor(len(ae_titles)) as pool:
        senders: list[Future[None]] = [pool.submit(send_studies, *each) for each in enumerate(ae_titles)]
        try:
            yield acknowledged, stopped
        finally:
            stopped.set()
        for sender in senders:
            sender.result()


def received(service: LaunchedService) -> set[str]:
    """Return the SOP Instance UIDs of all instances in the ledger of a service."""
    ledger = Ledger(f"sqlite:///{service.configuration.parent / 'data' / 'ledger.sqlite'}")
    with closing(ledger), ledger.read() as transaction:
        return set(transaction.execute(select(table.c.sop_instance_uid)).scalars())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "files"])
def test_a_backup_under_load_has_everything_acknowledged_before(
    launch_service: LaunchService, tmp_path: Path, backend: str
) -> None:
    """The service is killed, and another service is started on the restored backup: its audit is clean, and the jobs
    that were not finished go on.

    Verified to fail when the ledger is copied before the objects.
    """
    storage = STORAGE.replace("reserve = 0", f'reserve = 0\nbackend = "{backend}"')
    service = launch_service(storage + DOWN + AE_TITLES)
    service.port()
    assert all(result.ok for result in send(write_study(tmp_path / "stuck"), service, "DOWN"))
    stuck = service.wait_for("job_attempt_failed")["job_id"]
    with traffic(service, "LUNG", "LUNG", "WAIT") as (acknowledged, stopped):
        service.wait_for("instances_reclaimed")
        before = set(acknowledged)
        backup = run_as_json("backup", tmp_path / "backup", config=service.configuration)
        stopped.set()
        service.kill()
    assert [] == backup["notCopied"]

    other = tmp_path / "other" / "adapter.toml"
    other.parent.mkdir()
    other.write_text(storage + UP_AGAIN + AE_TITLES, encoding="utf-8")
    restored = run_as_json("restore", tmp_path / "backup", config=other)
    assert backup["instances"] == restored["instances"]
    assert run_as_json("audit", "--verify", config=other)["ok"]

    second = launch_service(other.read_text(encoding="utf-8"), name="other")
    assert set() == before - received(second)
    second.wait_for("job_submitted", job_id=stuck)
    assert [2] == [
        len(job["instances"]) for job in PlatformFolder(other.parent / "platform").jobs if job["jobId"] == stuck
    ]
    assert 0 == second.stop()
    assert run_as_json("audit", "--verify", config=other)["ok"]


def test_the_commands_report_what_they_made(launch_service: LaunchService, tmp_path: Path) -> None:
    """Status 2 means that nothing was made, status 1 that objects are missing."""
    service = launch_service(STORAGE + DOWN + AE_TITLES)
    config, folder = service.configuration, tmp_path / "backup"
    assert all(result.ok for result in send(write_study(tmp_path / "study", instances=3), service, "WAIT"))
    text = run("backup", folder, "--config", config).stdout
    assert f"backed up to {folder}: 3 stored instances" in text
    assert f"dicom-adapter restore {folder} --config" in text
    again = run("backup", folder, "--config", config, status=2)
    assert f"error: {folder} is not an empty folder; a backup needs a new folder; no backup was made" in again.stderr
    refused = run("restore", folder, "--config", config, status=2)
    assert "is not empty; a restore needs a new data folder" in refused.stderr
    assert 0 == service.stop()

    for segment in (config.parent / "data" / "instances").glob("*.segment"):
        segment.unlink()
    lost = run_as_json("backup", tmp_path / "lost", config=config, status=1)
    assert (0, [1, 2, 3]) == (lost["instances"], [each["instanceId"] for each in lost["notCopied"]])

    (config.parent / "data").rename(tmp_path / "away")
    text = run("restore", folder, "--config", config).stdout
    assert f"restored to {config.parent / 'data'}: 3 stored instances" in text
    assert "it has never run with this ledger" in run("status", config, status=3).stdout
    assert run_as_json("audit", config=config)["ok"]


def test_a_backup_after_a_power_loss_has_the_rows_that_were_lost(launch_service: LaunchService, tmp_path: Path) -> None:
    """The rows of acknowledged instances are restored from their recovery records, as at the next start.

    Verified to fail without the recovery.
    """
    configuration = STORAGE + DOWN + AE_TITLES
    service = launch_service(configuration)
    service.port()
    assert 0 == service.stop()
    data = service.configuration.parent / "data"
    before = (data / "ledger.sqlite").read_bytes()
    service = launch_service(configuration)
    assert all(result.ok for result in send(write_study(tmp_path / "study", instances=3), service, "WAIT"))
    service.kill()
    for log in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (data / log).unlink()
    (data / "ledger.sqlite").write_bytes(before)
    assert 3 == run_as_json("backup", tmp_path / "backup", config=service.configuration)["instances"]


@pytest.mark.slow
def test_the_ledger_of_a_backup_is_used_with_the_present_storage(launch_service: LaunchService, tmp_path: Path) -> None:
    """After a damage of the ledger, everything in the storage is pending again, as docs/operation.md describes."""
    configuration = STORAGE + DOWN + AE_TITLES
    service = launch_service(configuration)
    config, ledger = service.configuration, service.configuration.parent / "data" / "ledger.sqlite"
    assert all(result.ok for result in send(write_study(tmp_path / "before"), service, "WAIT"))
    run("backup", tmp_path / "backup", "--config", config)
    assert all(result.ok for result in send(write_study(tmp_path / "after", instances=3), service, "WAIT"))
    assert 0 == service.stop()
    acknowledged = received(service)
    assert 5 == len(acknowledged)

    ledger.write_bytes(bytes(len(ledger.read_bytes())))
    assert "cannot be opened" in run("audit", "--config", config, status=2).stderr
    ledger.write_bytes((tmp_path / "backup" / "ledger.sqlite").read_bytes())
    run("audit", "--repair", "--config", config)
    again = launch_service(configuration)
    again.port()
    run("instances", "requeue", "--all", "--reason", "without a row", "--config", config)
    run("instances", "discard", "--all", "--reason", "no stored object", "--yes", "--config", config)
    pending = run_as_json("instances", "list", "--state", "pending", config=config)
    assert acknowledged == {each["sopInstanceUid"] for each in pending}
    assert len(acknowledged) == len(pending)


@contextmanager
def cache_of(service: LaunchedService) -> Iterator[httpx.Client]:
    """Wait until the cache has the study with both instances."""
    port = service.wait_for("http_listening")["port"]
    end = time.monotonic() + 60
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/cache", timeout=60) as client:
        while [2] != [study["instances"] for study in client.get("/studies").json()["items"]]:
            assert time.monotonic() < end, "the study did not arrive"
            time.sleep(0.05)
        yield client


def test_a_restored_cache_has_its_studies_and_pins(launch_service: LaunchService, tmp_path: Path) -> None:
    """The cache's index is in the backup. After the start it gets the new keys of the stored objects."""
    cache = '[http]\nport = 0\n[ae-titles.CACHE]\nprocessor = "cache"\nsettings = { settle = 0, pipeline-a = "1" }\n'
    service = launch_service(STORAGE + cache)
    assert all(result.ok for result in send(write_study(tmp_path / "study"), service, "CACHE"))
    with cache_of(service) as client:
        [study] = client.get("/studies").json()["items"]
        assert client.put(f"/studies/{study['studyInstanceUid']}/pin").is_success
    run("backup", tmp_path / "backup", "--config", service.configuration)
    assert 0 == service.stop()
    service.configuration.parent.joinpath("data").rename(tmp_path / "away")
    run("restore", tmp_path / "backup", "--config", service.configuration)

    restored = launch_service(STORAGE + cache)
    restored.wait_for("cache_index_repaired")
    with cache_of(restored) as client:
        assert [True] == [each["pinned"] for each in client.get("/studies").json()["items"]]
        composed = {"pipeline": "a", "name": "composed", "studies": [study["studyInstanceUid"]]}
        assert client.post("/jobs", json=composed).is_success
    restored.wait_for("job_submitted")
