"""The questions of a PACS administrator, answered with the command line, as the how-to page shows.

`make transcript` writes the output of the commands to the page.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shlex
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.cli.senders import duration
from dicom_adapter.dicom import synthetic
from dicom_adapter.testing.fixtures import LaunchService
from dicom_adapter.testing.service import Service
from dicom_adapter_clara_client.emulator import CallFault, CallFaultKind
from dicom_adapter_clara_client.testing import PlatformEmulator
from support import jobs_in_ledger
from support.cut_off import send_and_abort
from support.pages import DOCS, block, read
from support.transcript import FORMAT, SHOWN_ZONE, UNMASK, ShownTimes, Transcript

PAGE = DOCS / "how-to" / "find-a-study.md"
WRITE = "DICOM_ADAPTER_WRITE_TRANSCRIPT"  # environment variable: write the page instead of comparing it
SPACE = "watermark-percent = 100\nreserve = 0"  # the test does not depend on the free space of the disk
COLUMNS = 80
SECONDS = 60  # time limit of each wait, for a busy machine
HOUR = 10  # local time of the service during the test, so that its times are those of one morning
WAIT = timedelta(minutes=10)  # `timeout` of TRIAL, and `interrupted-wait`
NO_SUCH_PIPELINE = -4097  # code of the platform
ADDRESSES = {"CT1": "10.0.0.11", "CT2": "10.0.0.12", "MR1": "10.0.0.21", "MR2": "10.0.0.22"}
PIDS = {"service": 4711, "host": 4713, "receiver": 4712}


def study(accession_number: str, modality: str, instances: int) -> list[Dataset]:
    """Return the instances of a study. Their UIDs are the same in each run."""
    return synthetic.make_study(
        modality=modality,
        instances=instances,
        patient_id="PID-4711",
        accession_number=accession_number,
        study_uid=f"1.2.826.0.1.3680043.8.498.5519232120{accession_number.removeprefix('A-')}",
        seed=accession_number,
        rows=16,
        columns=16,
        StudyDate="20260105",
    )


class Morning:
    """A service at which four modalities send, and the commands that an administrator types."""

    def __init__(self, service: Service, times: ShownTimes) -> None:
        self._service = service
        self._times = times
        self._submissions = 1  # number of succeeded jobs: that of A-1001
        self._shown: dict[str, str] = {}  # values of the page instead of real ones

    def send(self, shown: str, sender: str, ae_title: str, data_sets: list[Dataset]) -> None:
        self.at(shown)
        self._service.send(*data_sets, ae_title=ae_title, calling_ae_title=sender)

    def send_in_part(self, shown: str, ae_title: str, data_sets: list[Dataset]) -> None:
        self.at(shown)
        send_and_abort(self._service.port(), ae_title, data_sets)

    def at(self, shown: str) -> None:
        """Wait for the next second. The page shows it as the time `shown`."""
        before = int(time.time())
        while int(time.time()) == before:  # the output has no parts of seconds
            time.sleep(1 - time.time() % 1)
        self._times.mark(shown, datetime.now(timezone.utc))

    def show_job(self, ae_title: str, shown: str) -> None:
        """Let the page show the creation and the steps of the newest job of an AE title at the time `shown`."""
        created = [job.created_at for job in jobs_in_ledger(self._service) if job.ae_title == ae_title]
        self._times.mark(shown, created[-1])

    def run(self, text: str) -> str:
        """Run a command of the page and return its output, with the values of the page. Its lines must fit."""
        self._shown = self._names()
        for real, shown in self._shown.items():
            text = text.replace(shown, real)
        output = self._fixed(self.output(text)).translate(UNMASK)
        output = re.sub(r"silent for .*(\n.* last (\S+ \S+) )", self._silence, output)
        too_long = [line for line in output.splitlines() if len(line) > COLUMNS and not line.strip().startswith("`")]
        assert [] == too_long, f"dicom-adapter {text}"
        return output

    def wait_for_submission(self) -> None:
        """Wait for the end of the job that the last command has submitted. Later events are shown two minutes later."""
        self._submissions += 1
        self._service.wait_for("job_succeeded", times=self._submissions)
        self.at(f"{self._times.now + timedelta(minutes=2):{FORMAT}}")

    def output(self, text: str) -> str:
        result = CliRunner().invoke(app, shlex.split(text))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.output

    def wrap(self, text: str, *arguments: object, **options: object) -> list[str]:
        """Wrap lines as `textwrap.wrap`, with the values of the page, which may be shorter or longer."""
        return textwrap.wrap(self._fixed(text), *arguments, **options)  # type: ignore[arg-type] # those of `wrap`

    def wait_until_recorded(self) -> None:
        """Wait until the ledger has all counts and ends of associations, and the report about the groups."""
        deadline = time.monotonic() + SECONDS
        while not self._is_recorded():
            assert time.monotonic() < deadline, self.output("senders")

    def _is_recorded(self) -> bool:
        """Return whether CT1 has 1 association, CT2 has 3, 3 associations were rejected, and all reports are there."""
        senders = json.loads(self.output("senders --json"))
        counts = {sender["callingAeTitle"]: sender["associations"] for sender in senders}
        rejected = sum(rejection["count"] for sender in senders for rejection in sender["rejections"])
        stories = "".join(self.output(f"explain {number}") for number in ("A-1001", "A-1002", "A-1005", "A-1006"))
        stories = " ".join(stories.split())  # in one line
        return (
            (1, 3, 3) == (counts.get("CT1"), counts.get("CT2"), rejected)
            and "not recorded" not in stories
            and "reclaimed after" in stories
            and "missing" in self.output("status")
            and 2 == stories.count("becomes jobs")
        )

    # --- values of the page -------------------------------------------------------------------------------------------

    def _names(self) -> dict[str, str]:
        """Return the ids and names of jobs and associations, and what the page shows instead."""
        found: dict[str, str] = {}
        numbers: Counter[str] = Counter()
        for job in jobs_in_ledger(self._service):
            numbers[job.ae_title] += 1
            key = f"{job.ae_title} {numbers[job.ae_title]}"
            created = self._times.show(job.created_at).astimezone(timezone.utc)
            beginning = job.name.rsplit("-", 2)[0]
            found[job.name] = f"{beginning}-{created:%Y%m%d%H%M%S}-{_id(f'name {key}')[:6]}"
            found[job.job_id] = _id(f"job {key}")
            found[job.job_id[:8]] = _id(f"job {key}")[:8]
            found[job.platform_job_id] = _id(f"platform job {key}")
            found[job.platform_payload_id] = _id(f"payload {key}")
        for entry in self._service.logged("association_accepted"):
            key = f"{entry['calling_ae_title']} {entry['ae_title']}"
            numbers[key] += 1
            found[entry["association_id"][:8]] = _id(f"association {key} {numbers[key]}")[:8]
        return {real: shown for real, shown in found.items() if real}

    def _fixed(self, text: str) -> str:
        """Replace the values that differ in each run with those of the page."""
        for real, shown in self._shown.items():
            text = text.replace(real, shown)
        text = re.sub(r"(\w+) \(127\.0\.0\.1\)", lambda match: f"{match[1]} ({ADDRESSES[match[1]]})", text)
        text = re.sub(r"(\w+) \(PID \d+\)", lambda match: f"{match[1]} (PID {PIDS[match[1]]})", text)
        text = re.sub(r"^( +by): .*$", r"\1: anna", text, flags=re.MULTILINE)  # the user who runs the command
        text = re.sub(r"[\d.]+ \w+ of .* used; ", "412.6 GB of 500.1 GB free, 17 % used; ", text)
        text = re.sub(r"at 100 % used, or .* free", "at 85 % used, or with less than 5.0 GB free", text)
        return self._times.replace_in(text)

    def _silence(self, match: re.Match[str]) -> str:
        last = datetime.strptime(match[2], FORMAT).replace(tzinfo=SHOWN_ZONE)
        return f"silent for {duration(self._times.now - last)}{match[1]}"


def _id(key: str) -> str:
    """Return 32 hexadecimal digits that are the same in each run."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


@pytest.fixture
def local_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[timezone]:
    """A zone in which it is about ten in the morning."""
    hours = HOUR - datetime.now(timezone.utc).hour
    hours = hours if hours > -12 else hours + 24
    monkeypatch.setenv("TZ", f"<{hours:+03d}>{-hours}")
    time.tzset()
    yield timezone(timedelta(hours=hours))
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def morning(
    launch_service: LaunchService,
    platform_emulator: PlatformEmulator,
    local_time: timezone,
    monkeypatch: pytest.MonkeyPatch,
) -> Morning:
    """A morning on which everything of the page has happened. The platform has one of the two pipelines."""
    configuration = block("toml morning", PAGE).text.replace("http://platform.example:8090", platform_emulator.rest)
    [bleeding] = re.findall(r'pipeline-bleeding = "(\w+)"', configuration)
    fault = CallFault(
        call="Jobs.Create",
        kind=CallFaultKind.CODE,
        code=NO_SUCH_PIPELINE,
        messages=(f"there is no pipeline {bleeding}",),
        pipeline_id=bleeding,
        times=1,
    )
    platform_emulator.faults.add(fault)
    times = ShownTimes(local_time, WAIT)
    times.mark("2026-01-05 07:00:00", datetime.now(timezone.utc))
    service = launch_service(configuration.replace('path = "data"', f'path = "data"\n{SPACE}'))
    service.port()
    made = Morning(service, times)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("DICOM_ADAPTER_CONFIG", str(service.configuration))
    monkeypatch.setattr("dicom_adapter.cli.wrapping.textwrap", SimpleNamespace(wrap=made.wrap))
    made.send("2026-01-05 08:58:03", "CT2", "LUNG", study("A-1001", "CT", 4))
    service.wait_for("job_submitted")
    service.wait_for("instances_reclaimed")
    made.show_job("LUNG", "2026-01-05 08:58:08")
    made.send("2026-01-05 09:04:40", "CT2", "HEAD", study("A-1002", "CT", 3))
    service.wait_for("job_faulted")
    made.show_job("HEAD", "2026-01-05 09:04:45")
    made.send("2026-01-05 09:10:12", "MR1", "LUNGG", study("A-1003", "MR", 3))
    made.send("2026-01-05 09:16:30", "MR1", "LUNGG", study("A-1003", "MR", 3))
    made.send("2026-01-05 09:21:07", "MR2", "HEAD", study("A-1004", "MR", 3))
    made.send_in_part("2026-01-05 09:25:55", "LUNG", study("A-1005", "CT", 3))
    made.send("2026-01-05 09:27:31", "CT2", "TRIAL", study("A-1006", "CT", 2))
    made.wait_until_recorded()
    made.at("2026-01-05 09:30:00")
    return made


@pytest.mark.timeout(300)  # many commands, on a busy machine
def test_the_page_shows_the_real_answers_to_the_questions_of_an_administrator(morning: Morning) -> None:
    """Every command of the page is run, in order, and its output is the one that the page shows.

    After a change of a command, `make transcript` renews the page.
    """
    transcript = Transcript(PAGE, "morning", morning.run, {"submits": morning.wait_for_submission})
    renewed = transcript.renewed()
    if os.environ.get(WRITE):
        PAGE.write_text(renewed, encoding="utf-8")
    changes = list(difflib.unified_diff(read(PAGE).splitlines(), renewed.splitlines(), "page", "service", lineterm=""))
    assert [] == changes, "docs/how-to/find-a-study.md is out of date: run `make transcript`"
