"""Instances that are stored, not yet entered in the ledger: what commands show, and what a repair does.

They are stored by a receiver without a host. Files and ledger are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_adapter.api.receiving import StoreOutcome
from dicom_adapter.cli import app
from dicom_adapter.config import load
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.follower import Follower
from dicom_adapter.flow.enter.journal import FOLDER, journals
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import configurations, instances
from dicom_adapter.ledger.health import HOST
from dicom_adapter.operations.backup import Backup
from dicom_adapter.plugins.registry import discover
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.service.reload.take_snapshot import snapshot
from dicom_adapter.simulation.adapter import encode, make_request
from support.local_storage import kill_local_storage

CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[submitters.platform]
type = "memory"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-a = "1" }
"""
STUDY, ACCESSION, PATIENT = "2.25.77", "ACC-0815", "PID-4711"


class Site:
    """A service that was started once, a receiver of it, and a host that runs only in `enter`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "dicom-adapter.toml"
        self.file.write_text(CONFIGURATION, encoding="utf-8")
        plugins = discover()
        self.config = load(CONFIGURATION, folder=folder, catalogue=plugins.catalogue()).config
        assert self.config is not None
        self.folder = DataFolder.of(self.config)
        self.folder.prepare(is_new=True)
        self.ledger = self.folder.open_ledger(self.config.ledger_url)
        self.ledger.migrate()
        self.storage: Any = self.folder.open_storage(self.config.storage, plugins.catalogue())
        self.resources = Resources(ledger=self.ledger, storage=self.storage, clock=SystemClock())
        settings = snapshot(self.config, plugins, "salt").to_json()
        with self.ledger.write() as transaction:
            configurations.record_start(transaction, CONFIGURATION, str(folder), settings, SystemClock().now())
        self._store = Store(self.config, self.resources)
        self._store.open_log(self.journals)
        self.running = ExitStack()

    @property
    def journals(self) -> Path:
        return self.folder.path / FOLDER

    def send(self, *uids: str, study: str = STUDY) -> None:
        """Store and acknowledge instances."""
        for uid in uids:
            data_set = make_instance(rows=2, columns=2, seed=uid)
            data_set.StudyInstanceUID, data_set.SOPInstanceUID = study, uid
            data_set.AccessionNumber, data_set.PatientID = ACCESSION, PATIENT
            result = self._store.keep(make_request(data_set, "LUNG", "CT1", "a" * 32), encode(data_set))
            assert StoreOutcome.STORED is result.outcome

    def enter(self) -> None:
        """Run the host for a moment."""
        assert self.config is not None
        entry = RowEntry(self.config, self.resources, HOST)
        follower = Follower(self.journals, entry, self.resources, lambda _results: None)
        follower.follow()
        follower.close()

    def lock_as_service(self) -> None:
        """Hold the locks of a running service. No process is started."""
        self.running.enter_context(self.folder.shared())
        self.running.enter_context(self.folder.as_host())
        self.running.enter_context(self.folder.as_service())

    def kill(self) -> None:
        """End the receiver without an orderly stop."""
        kill_local_storage(self.storage)

    def call(self, *arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.file)], env={"COLUMNS": "200"})
        assert status == result.exit_code, result.output
        return result.output

    @property
    def rows(self) -> list[str]:
        with self.ledger.read() as transaction:
            return [row.sop_instance_uid for row in instances.pending_after(transaction, 0, 100, "LUNG")]

    def close(self) -> None:
        self.running.close()
        self.storage.close()
        self.ledger.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


RUNNING = pytest.mark.parametrize("is_running", [True, False], ids=["running", "stopped"])


# --- audit and repair -------------------------------------------------------------------------------------------------


@RUNNING
def test_an_audit_counts_instances_without_rows_and_reports_no_problem(site: Site, is_running: bool) -> None:
    """Their stored objects are no orphans. Verified to fail when the audit does not read the recovery records."""
    site.send("1.1")
    site.enter()
    site.send("1.2", "1.3")
    if is_running:
        site.lock_as_service()
    text, found = site.call("audit"), json.loads(site.call("audit", "--json"))
    assert "No problems found." in text
    at_start = "" if is_running else ": the service enters their rows when it starts"
    assert f"LUNG: 2 stored, not yet entered in the ledger{at_start}\n" in text
    assert (True, {"LUNG": 2}, []) == (found["ok"], found["notEntered"], found["findings"])


def test_an_object_without_row_and_record_is_still_reported(site: Site) -> None:
    """The recovery records of other instances do not hide it."""
    site.send("1.1")
    writer = site.storage.writer()
    writer.write(b"orphan")
    site.storage.sync([writer.finish()])
    found = json.loads(site.call("audit", "--json", status=1))
    assert ({"object-without-row": 1}, {"LUNG": 1}) == (found["counts"], found["notEntered"])


@pytest.mark.parametrize("lost", ["nothing", "journal"])
def test_a_repair_enters_the_rows_of_stored_instances(site: Site, lost: str) -> None:
    """A power loss may have destroyed the journal. The follower does not enter the rows again."""
    site.send("1.1", "1.2")
    site.kill()
    if lost == "journal":
        for journal in journals(site.journals):
            journal.unlink()
    assert "No problems found." in site.call("audit", "--repair")
    assert ["1.1", "1.2"] == site.rows
    site.enter()
    assert ["1.1", "1.2"] == site.rows
    assert 2 == len(list(site.storage.keys()))


# --- explain ----------------------------------------------------------------------------------------------------------


@RUNNING
def test_explain_shows_a_study_without_any_row(site: Site, is_running: bool) -> None:
    """It is found by its UIDs, the Accession Number and the Patient ID."""
    site.send("1.2")
    if is_running:
        site.lock_as_service()
    for value in (STUDY, "1.2", ACCESSION, PATIENT):
        text = " ".join(site.call("explain", value).split())
        assert "AE title LUNG" in text
        assert "1 instance from CT1 (127.0.0.1) is stored, not yet entered in the ledger: it was stored at" in text
        assert "Patient ID" not in text
    assert f"Patient ID: {PATIENT}" in site.call("explain", STUDY, "--show-patient")


def test_explain_shows_instances_with_and_without_rows(site: Site) -> None:
    """Filters select both. Rows are not counted twice."""
    site.send("1.1")
    site.enter()
    site.send("1.2", "1.3")
    [section] = json.loads(site.call("explain", "--study", STUDY, "--calling", "CT1", "--json"))["sections"]
    [entry] = [entry for entry in section["entries"] if entry["kind"] == "not_entered"]
    assert (2, None) == (entry["fields"]["instances"], entry["at"])
    assert ["instances_stored"] == [entry["kind"] for entry in section["entries"] if entry["at"]][:1]


def test_explain_lists_several_studies_without_rows(site: Site) -> None:
    """One of them has a row, too."""
    site.send("1.1")
    site.enter()
    site.send("1.2", study="2.25.78")
    found = json.loads(site.call("explain", ACCESSION, "--json"))
    assert {STUDY, "2.25.78"} == {study["studyInstanceUid"] for study in found["studies"]}


def test_explain_of_an_unknown_study_does_not_find_others(site: Site) -> None:
    """Only instances with the UID belong to the subject."""
    site.send("1.1")
    assert "the ledger has no study" in site.call("explain", "2.25.99", status=1)


# --- instances and status ---------------------------------------------------------------------------------------------


def test_instances_without_rows_are_listed_first(site: Site) -> None:
    """They have no id. They are not among the instances in a state."""
    site.send("1.1")
    site.enter()
    site.send("1.2", "1.3")
    listed = json.loads(site.call("instances", "list", "--json"))
    assert [(None, "1.3"), (None, "1.2"), (1, "1.1")] == [(one["instanceId"], one["sopInstanceUid"]) for one in listed]
    assert ["not-entered", "not-entered", "pending"] == [one["state"] for one in listed]
    assert "not yet entered in the ledger" in site.call("instances", "list", "--limit", "1")
    assert 1 == len(json.loads(site.call("instances", "list", "--json", "--limit", "1")))
    assert ["1.1"] == [
        one["sopInstanceUid"] for one in json.loads(site.call("instances", "list", "--json", "--state", "pending"))
    ]
    assert [] == json.loads(site.call("instances", "list", "--json", "--ae-title", "OTHER"))


def test_the_status_has_the_backlog(site: Site) -> None:
    """The service is not running."""
    assert {"instances": 0, "oldestAt": None} == json.loads(site.call("status", "--json", status=3))["notEntered"]
    site.send("1.1", "1.2")
    found = json.loads(site.call("status", "--json", status=3))
    assert (2, True) == (found["notEntered"]["instances"], bool(found["notEntered"]["oldestAt"]))
    reason = "2 instances are stored, not yet entered in the ledger: the service enters their rows when it starts"
    assert {"level": "yellow", "part": "entry of rows", "reason": reason} in found["problems"]
    assert "2 stored instances without a row in the ledger yet" in site.call("status", status=3)


def test_a_log_that_cannot_be_read_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command shows the instances that have rows."""
    site.send("1.1")
    site.enter()

    def unreadable(*_arguments: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dicom_adapter.cli.log_reading.logged", unreadable)
    assert "the log cannot be read" in site.call("instances", "list")


# --- backup -----------------------------------------------------------------------------------------------------------


def test_a_backup_waits_for_the_rows_of_acknowledged_instances(site: Site, tmp_path: Path) -> None:
    """Verified to fail when the backup does not wait."""
    site.send("2.25.1", "2.25.2")
    site.lock_as_service()
    entered = Event()

    def on_progress(step: str, _done: int, _total: int | None) -> None:
        if step == "rows entered" and not entered.is_set():
            entered.set()
            site.enter()

    manifest = Backup(site.resources, site.folder.path, CONFIGURATION, on_progress=on_progress).run(tmp_path / "copy")
    assert entered.is_set()
    assert (2, 0) == (manifest.instances, manifest.not_entered)


def test_a_backup_without_a_working_host_reports_the_instances_without_rows(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Backup.__init__, "__kwdefaults__", {**Backup.__init__.__kwdefaults__, "longest_wait_seconds": 0.0}
    )
    site.send("2.25.1", "2.25.2")
    site.lock_as_service()
    shown = site.call("backup", str(tmp_path / "text"), status=1)
    assert "not in the backup: 2 acknowledged instances without a row" in shown
    assert 2 == json.loads(site.call("backup", str(tmp_path / "json"), "--json", status=1))["notEntered"]
    assert 2 == json.loads((tmp_path / "json/manifest.json").read_text(encoding="utf-8"))["notEntered"]


def test_a_backup_of_a_stopped_service_has_all_acknowledged_instances(site: Site, tmp_path: Path) -> None:
    site.send("2.25.1", "2.25.2")
    site.kill()
    site.call("backup", str(tmp_path / "copy"))
    found = json.loads((tmp_path / "copy/manifest.json").read_text(encoding="utf-8"))
    assert (2, 0) == (found["instances"], found["notEntered"])
