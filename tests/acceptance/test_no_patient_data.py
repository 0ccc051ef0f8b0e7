"""No output of the service contains patient data: log, metrics, traces, notifications, health, names of files."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.testing.fixtures import LaunchService
from support.exported_spans import ExportedSpans
from support.results_site import wait_until

NAME, ID, ACCESSION, DESCRIPTION = "Plantedname^Given", "PLANTED-ID-7", "PLANTEDACC9", "Planted Description"
PATIENT_DATA = ["plantedname", "planted-id-7", "plantedacc9", "planted description"]  # searched without case
UID_ROOT = "2.25.4711"
CONFIGURATION = """
[log]
level = "debug"

[storage]
path = "data"
watermark-percent = 100
reserve = 0

[http]
port = 0

[submitters.local]
type = "command"
status-every = 0.2

[submitters.local.pipelines.reports]
command = ["/bin/sh", "-c", 'echo Plantedname; cp -r "$1" "$2/copied"', "sh", "{{input}}", "{{output}}"]

[submitters.local.pipelines.fails]
command = ["/bin/sh", "-c", "echo Plantedname; echo Plantedname >&2; exit 1"]

[ae-titles.COPIES]
submitter = "local"
[ae-titles.COPIES.settings]
pipeline-a = "reports"

[ae-titles.FAILS]
submitter = "local"
[ae-titles.FAILS.settings]
group-by = "patient"
timeout = 5
pipeline-a = "fails"

[ae-titles.BAD]
submitter = "local"
[ae-titles.BAD.settings]
group-by = "AdmissionID"
pipeline-a = "fails"

[notifications.team]
type = "webhook"
url = "http://127.0.0.1:{port}/hook"
gather = 1
pause = 1
"""


class Recipient(ThreadingHTTPServer):
    """Receives notifications and keeps everything of each request: path, headers and body."""

    def __init__(self) -> None:
        self.received: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Recipient

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.received.append(f"{self.path}\n{self.headers}\n{body}")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def recipient() -> Iterator[Recipient]:
    with Recipient() as server:
        yield server
        server.shutdown()


def planted(number: int, **attributes: str) -> Dataset:
    uids = {f"{kind}_uid": f"{UID_ROOT}.{number}.{place}" for place, kind in enumerate(("study", "series", "sop"))}
    return make_instance(
        patient_name=NAME,
        patient_id=ID,
        accession_number=ACCESSION,
        StudyDescription=DESCRIPTION,
        rows=4,
        columns=4,
        **uids,
        **attributes,
    )


def found_in(text: str, values: list[str]) -> list[str]:
    return [value for value in values if value in text.lower()]


@pytest.mark.timeout(240)  # on a busy machine
def test_no_output_of_the_service_contains_patient_data(
    launch_service: LaunchService, recipient: Recipient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Study UIDs are only in the log and in commands, which operators use to find a study.

    A job succeeds and its result is quarantined, a pipeline fails, an instance is quarantined, another is refused.
    Verified to fail when the log line of a stored instance has the Patient ID.
    """
    exported = ExportedSpans(tmp_path, monkeypatch)
    service = launch_service(CONFIGURATION.format(port=recipient.server_address[1]))
    for number, ae_title in enumerate(("COPIES", "FAILS", "BAD")):
        assert [True] == [result.ok for result in service.send(planted(number), ae_title=ae_title)]
    without_study = planted(9)
    del without_study.StudyInstanceUID
    assert [False] == [result.ok for result in service.send(without_study, ae_title="COPIES")]
    service.wait_for("results_collected", ae_title="COPIES", quarantined=1)
    service.wait_for("job_failed", ae_title="FAILS")
    service.wait_for("instance_quarantined", ae_title="BAD")
    wait_until(lambda: found_in("".join(recipient.received), ["fails"]) != [], "a notification of the failed job")
    outputs = {"notifications": "".join(recipient.received)}
    port = service.wait_for("http_listening")["port"]
    for path in ("/metrics", "/health"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            outputs[path] = response.read().decode()
    assert 0 == service.stop()
    outputs["traces"] = exported.text
    outputs["names of files"] = "\n".join(str(path) for path in service.configuration.parent.rglob("*"))
    log = service.log_file.read_text(encoding="utf-8")

    assert {} == {
        name: found for name, text in {**outputs, "log": log}.items() if (found := found_in(text, PATIENT_DATA))
    }
    assert {} == {name: found for name, text in outputs.items() if (found := found_in(text, [UID_ROOT]))}
    assert UID_ROOT in log  # otherwise this test would search for the wrong value
    # `enter` is missing if the row is entered before the context of its association.
    names = [names - {"enter"} for names in exported.span_names_by_trace().values() if "result" in names]
    assert [{"receive", "group", "submit", "poll", "result"}] == names, json.dumps(names, default=list)
