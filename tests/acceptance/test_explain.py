"""`dicom-adapter explain` with a real service: the story of recorded events, as text and as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydicom import dcmread
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, wait_until_reclaimed, write_study

CONFIGURATION = (
    STORAGE
    + """
[ae-titles.LUNG.settings]
priority = "higher"
pipeline-a = "p1"
[ae-titles.HOLD.settings]
timeout = 3600
pipeline-a = "p1"
"""
)
PATIENT = "PID-4711"
WIDE = 200  # columns


def explain(service: LaunchedService, *arguments: str, status: int = 0, columns: int = WIDE) -> str:
    """Run the command and return its output with all times replaced, and with long lines in one piece."""
    command = ["explain", *arguments, "--config", str(service.configuration)]
    result = CliRunner().invoke(app, command, env={"COLUMNS": str(columns)})
    assert (status, False) == (result.exit_code, PATIENT in result.output), result.output
    lines = [line.rstrip() for line in result.output.splitlines()]
    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "TIME", "\n".join(lines))
    return text if columns < WIDE else re.sub(r"\n {12}(?=\S)", " ", text)


def first_association(service: LaunchedService, ae_title: str) -> str:
    """Return the beginning of the id of the first association with an AE title, as `explain` shows it."""
    association_id: str = service.logged("association_closed", ae_title=ae_title)[0]["association_id"]
    return association_id[:8]


def test_a_study_is_explained_while_the_service_runs_and_after_its_end(
    launch_service: LaunchService, tmp_path: Path
) -> None:
    """Both AE titles are shown. Some events of the receiver may be recorded only when the service stops."""
    paths = write_study(tmp_path / "study", instances=3, patient_id=PATIENT)
    study = str(dcmread(paths[0]).StudyInstanceUID)
    service = launch_service(CONFIGURATION)
    send(paths, service, "LUNG")
    send(paths, service, "HOLD")
    send(paths[:2], service, "HOLD")
    wait_until_reclaimed(service, 3)
    service.wait_for("association_closed", times=3)
    running = explain(service, study)
    assert "3 instances were reclaimed after submission." in running
    assert "AE title HOLD\n" in running
    service.stop()

    stopped = explain(service, study)
    lung, hold = (first_association(service, name) for name in ("LUNG", "HOLD"))
    assert f"Study {study}: 3 instances in 1 series. Times are UTC.\n\nAE title LUNG\n" in stopped
    until = "( until TIME)?"  # the period in which the instances arrived, unless that was one second
    for association in (lung, hold):
        ended = f"association {association} was released at TIME"
        assert re.search(rf"TIME +SENDER \(127.0.0.1\) sent 3 instances{until}; {ended}\.\n", stopped)
    duplicates = r"2 duplicates arrived from SENDER \(127.0.0.1\) in association \w{8}, which was released"
    assert re.search(f"{duplicates}{until}\\. They were not kept: the same data set is pending already", stopped)
    assert (
        "now         3 instances wait in the processor. 1 group waits at AE title HOLD. The next group, patient #"
        in stopped
    )

    [job_id] = {entry["job_id"] for entry in service.logged("job_submitted")}
    shown = json.loads(explain(service, job_id[:8], "--json"))
    assert ("job", job_id, ["LUNG"]) == (
        shown["kind"],
        shown["name"],
        [entry["aeTitle"] for entry in shown["sections"]],
    )
    entries = shown["sections"][0]["entries"]
    assert ["instances_stored", "job_queued", "job_submitted", "instances_reclaimed"] == [
        entry["kind"] for entry in entries
    ]
    assert {"kind", "at", "text", "fields"} == set(entries[0])
    assert max(len(line) for line in explain(service, study, columns=80).splitlines()) <= 80

    unknown = explain(service, "1.2.3", status=1)
    assert unknown.startswith(
        "error: the ledger has no study, series or SOP instance with the UID 1.2.3\nPossible reasons: "
    )
    assert "history-days = 30" in unknown
