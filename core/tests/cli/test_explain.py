"""`explain` in the terms of a PACS: one study, several studies, and for no match what was rejected or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_adapter import InstanceStorageInfo, Job, JobPriority
from dicom_adapter.cli import app
from dicom_adapter.ledger import Ledger, events, instances, jobs, senders, series
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.instances import UNNUMBERED
from dicom_adapter.ledger.senders import Rejected
from dicom_adapter.ledger.series import ArrivedSeries

NOW = datetime.now(timezone.utc)
HOUR = timedelta(hours=1)
PATIENT, ACCESSION = "PID-4711", "ACC-0815"
CONFIGURATION = """
[storage]
path = "data"
[submitters.platform]
type = "memory"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-a = "1" }
"""


class Site:
    """A configuration with a ledger."""

    def __init__(self, folder: Path) -> None:
        self.configuration = folder / "dicom-adapter.toml"
        self.configuration.write_text(CONFIGURATION)
        (folder / "data").mkdir()
        self.ledger = Ledger(f"sqlite:///{folder / 'data' / 'ledger.sqlite'}", durable=False)
        self.ledger.migrate()
        self._number = 0

    def receive(self, study: str, *, accession: str = "", patient: str = PATIENT, at: datetime = NOW) -> int:
        """Insert an instance of a study; return its number."""
        self._number += 1
        instance = InstanceStorageInfo(
            instance_id=UNNUMBERED,
            ae_title="LUNG",
            calling_ae_title="CT1",
            peer_address="10.0.0.7",
            association_id="a" * 32,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            sop_instance_uid=f"{study}.1.{self._number}",
            study_instance_uid=study,
            series_instance_uid=f"{study}.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            patient_id=patient,
            issuer_of_patient_id="",
            received_at=at,
            storage_key=f"{self._number:032x}",
            size_bytes=1000,
            checksum=1,
        )
        row = ArrivedSeries(f"{study}.1", study, patient, accession, "20260105", "CT", "Thorax\x1b[2J")
        with self.ledger.write() as transaction:
            series.enter(transaction, [row], at)
            return instances.insert(transaction, instance).instance_id

    def submit(self, number: int, job_id: str) -> None:
        job = Job(
            job_id=job_id,
            name="LUNG-a",
            ae_title="LUNG",
            pipeline_id="1",
            priority=JobPriority.NORMAL,
            submitter="platform",
            instance_count=1,
            created_at=NOW,
            changed_at=NOW,
        )
        with self.ledger.write() as transaction:
            jobs.insert(transaction, job, [number])

    def explain(self, *arguments: str, status: int = 0) -> str:
        command = ["explain", *arguments, "--config", str(self.configuration)]
        result = CliRunner().invoke(app, command, env={"COLUMNS": "80"})
        assert status == result.exit_code, result.output
        return result.output


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.ledger.close()


@pytest.mark.parametrize(
    "arguments",
    [
        (ACCESSION,),
        ("--accession", ACCESSION),
        ("--patient", PATIENT, "--since", "2h"),
        ("1.2.3",),
        ("--study", "1.2.3", "--ae-title", "LUNG"),
        ("--series", "1.2.3.1", "--calling", "CT1"),
    ],
)
def test_a_study_is_explained_by_any_of_its_attributes(site: Site, arguments: tuple[str, ...]) -> None:
    """Patient data is shown on request only. Verified to fail when Accession Numbers are not compared."""
    site.receive("1.2.3", accession=ACCESSION)
    site.receive("1.2.9", patient="other", at=NOW - 3 * HOUR)
    text = site.explain(*arguments)
    assert text.startswith("Study 1.2.3: 1 instance in 1 series. Times are ")
    assert (False, False) == (PATIENT in text, ACCESSION in text)
    shown = site.explain(*arguments, "--show-patient")
    assert f"Patient ID: {PATIENT}\nAccession Number: {ACCESSION}\nStudy Date: 20260105\n" in shown
    assert "\x1b" not in shown
    assert "patient" not in json.loads(site.explain(*arguments, "--json"))
    found = json.loads(site.explain(*arguments, "--json", "--show-patient"))
    assert ("study", [PATIENT], [ACCESSION]) == (
        found["kind"],
        found["patient"]["patientId"],
        found["patient"]["accessionNumber"],
    )


def test_a_series_and_an_instance_have_a_story(site: Site) -> None:
    site.receive("1.2.3")
    assert site.explain("1.2.3.1").startswith("Series 1.2.3.1 of study 1.2.3: 1 instance. ")
    assert site.explain("--sop", "1.2.3.1.1").startswith("SOP instance 1.2.3.1.1 of study 1.2.3. ")
    site.explain("--sop", "1.2.3", status=1)


def test_several_studies_are_listed_the_newest_first(site: Site) -> None:
    """Each has the command to type next. Patient data is shown on request only."""
    site.submit(site.receive("1.2.3", at=NOW - HOUR), "ab" * 16)
    site.receive("1.2.4", accession=ACCESSION)
    text = site.explain(PATIENT)
    assert max(map(len, text.splitlines()[:-1])) <= 80 + len(str(site.configuration))
    assert text.index("Study 1.2.4") < text.index("Study 1.2.3")
    assert "    1 instance (CT) from CT1 to LUNG\n" in text
    assert "    jobs: 1 queued\n" in text
    assert "`dicom-adapter explain 1.2.4 -c " in " ".join(text.split())
    assert (False, False) == (PATIENT in text, ACCESSION in text)
    assert f"Accession Number: {ACCESSION}" in site.explain(PATIENT, "--show-patient")
    shown = json.loads(site.explain("--patient", PATIENT, "--json"))
    assert ("matches", ["1.2.4", "1.2.3"], None) == (
        shown["kind"],
        [study["studyInstanceUid"] for study in shown["studies"]],
        shown["jobId"],
    )
    assert PATIENT not in json.dumps(shown)


def test_an_accession_number_that_begins_a_job_id_matches_both(site: Site) -> None:
    site.submit(site.receive("1.2.3"), "4711" + "a" * 28)
    assert site.explain("4711").startswith("Job 4711")
    site.receive("1.2.4", accession="4711")
    text = site.explain("4711")
    assert f"Job 4711{'a' * 28}\n" in text
    assert "Study 1.2.4\n" in text


def test_what_never_arrived_is_answered_with_what_was_rejected_and_refused(site: Site) -> None:
    """The error does not repeat the value, which may be patient data."""
    at = NOW - HOUR
    rejected = Rejected(
        peer_address="10.0.0.7",
        calling_ae_title="CT1",
        ae_title="LUNGG",
        cause="called-ae-title",
        reason="the called AE title is not configured",
        count=14,
        first_at=at,
        last_at=at,
    )
    detail: dict[str, Any] = {"how": "released", "statuses": {"SUCCESS": 3, "OUT_OF_RESOURCES": 12}}
    end = Event(
        at=at,
        event="association_closed",
        ae_title="LUNG",
        association_id="b" * 32,
        detail={**detail, "calling_ae_title": "MR1", "peer": "10.0.0.8"},
    )
    with site.ledger.write() as transaction:
        senders.add_rejections(transaction, [rejected])
        events.record(transaction, [end])
    text = " ".join(site.explain(ACCESSION, status=1).split())
    assert ACCESSION not in text
    assert "error: the ledger has no study, instance or job that matches Possible reasons: it never arrived" in text
    assert "CT1 (10.0.0.7): rejected 14 associations to LUNGG: the called AE title is not configured; last " in text
    assert "MR1 (10.0.0.8): 12 instances refused at LUNG with 0xA700 (out of resources); last " in text
    only = site.explain("--accession", ACCESSION, "--calling", "CT1", status=1)
    assert (True, False) == ("CT1" in only, "MR1" in only)
    assert "nothing\n" in site.explain("--accession", ACCESSION, "--since", "30m", status=1)
    output = site.explain("--accession", ACCESSION, "--json", status=1)
    shown = json.loads(output[output.index("{") :])
    assert (14, 12) == (shown["rejections"][0]["count"], shown["refused"][0]["count"])


@pytest.mark.parametrize(
    "arguments", [(), (" ",), ("1.2.3", "--calling", "CT1"), ("--since", "yesterday"), ("--since", "999999d")]
)
def test_a_value_or_filters_are_required(site: Site, arguments: tuple[str, ...]) -> None:
    site.explain(*arguments, status=2)


def test_jobs_and_instances_are_listed_with_the_same_filters(site: Site) -> None:
    site.submit(site.receive("1.2.3", accession=ACCESSION), "ab" * 16)
    site.submit(site.receive("1.2.4"), "cd" * 16)
    listed = ((("jobs", "list"), "jobId", "ab" * 16), (("instances", "list"), "sopInstanceUid", "1.2.3.1.1"))
    for command, key, expected in listed:
        for filters in (("--accession", ACCESSION), ("--series", "1.2.3.1"), ("--sop", "1.2.3.1.1")):
            arguments = [*command, *filters, "--json", "--config", str(site.configuration)]
            [shown] = json.loads(CliRunner().invoke(app, arguments).output)
            assert expected == shown[key]
