"""A site for results: a command that makes two results for each job, and the destinations `folder` and `dicom`.

`CommandSite` is the same for other destinations.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen
from pydicom import dcmread
from pynetdicom import AE, evt

from dicom_adapter_pipelines import example

# The command of the jobs. It notes its start, the SOP Instance UID of each result, and its end, with the AE title. It
# waits while the test holds the AE title, and keeps a copy of each result.
PROGRAM = """
import json, os, shutil, sys, time
from pathlib import Path

folder, source, output, job, notes, held, copies = map(Path, sys.argv[1:])
ae_title = json.loads(job.read_bytes())["ae-title"]


def note(what, **more):
    entry = json.dumps({"what": what, "aeTitle": ae_title, **more}) + "\\n"
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, entry.encode())
    os.close(file)


note("started")
sys.path.insert(0, str(folder))
import example
from pydicom import dcmwrite

while (held / ae_title).exists():
    time.sleep(0.02)
made = [result for instances in example.studies(source) for _kind, result in example.results(instances)]
for number, result in enumerate(made):
    dcmwrite(output / f"{number}.dcm", result, enforce_file_format=True)
    shutil.copy(output / f"{number}.dcm", copies / f"{result.SOPInstanceUID}.dcm")
    (output / f"report-{number}.json").write_text(json.dumps({"aeTitle": ae_title, "result": number}))
    note("written", uid=str(result.SOPInstanceUID))
    time.sleep(0.1)
note("ended")
"""
CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.local]
type = "command"
running = {running}
status-every = 0.2
retry-first = 0.1
retry-most = 0.5

[submitters.local.pipelines.example]
command = ["{python}", "{program}", "{example}", "{{input}}", "{{output}}", "{{job}}", "{notes}", "{held}", "{copies}"]
time-limit = 300
"""
DESTINATIONS = """
[submitters.drop]
type = "folder"
path = "{drop}"
retry-first = 0.1
retry-most = 0.5

[submitters.pacs]
type = "dicom"
host = "127.0.0.1"
port = {port}
ae-title = "PACS"
parallel = 1
retry-first = 0.1
retry-most = 0.5
"""
AE_TITLE = """
[ae-titles.{name}]
submitter = "local"

[ae-titles.{name}.settings]
group-by = "study"
timeout = 5
interrupted = "submit"
pipeline-example = "example"

[ae-titles.{name}.results]
to = {to}
expect-results = true
"""
RESULTS = 2  # of each job
SECONDS = 60.0  # time limit of each wait, for a busy machine


@frozen
class HeldResponse:
    """A response that the PACS does not send yet."""

    arrived: threading.Event = field(factory=threading.Event)  # the request was received
    answer: threading.Event = field(factory=threading.Event)  # set to send the response


class Pacs:
    """A DICOM node that accepts results, counts every C-STORE, and can hold a response until the adapter is dead."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, str]] = []  # Patient ID and SOP Instance UID of each C-STORE
        self._held: dict[tuple[str, int], HeldResponse] = {}
        self._lock = threading.Lock()
        entity = AE(ae_title="PACS")
        for sop_class in (example.SECONDARY_CAPTURE, example.BASIC_TEXT_SR):
            entity.add_supported_context(sop_class)
        entity.maximum_associations = 20
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port: int = self._server.server_address[1]

    def hold(self, patient_id: str, number: int) -> HeldResponse:
        """Hold the response to the n-th C-STORE of a patient."""
        return self._held.setdefault((patient_id, number), HeldResponse())

    def answer_all(self) -> None:
        """Send all responses that are held now."""
        for held in self._held.values():
            if held.arrived.is_set():
                held.answer.set()

    def _store(self, event: evt.Event) -> int:
        data_set = event.dataset
        patient_id = str(data_set.PatientID)
        with self._lock:
            self.stored.append((patient_id, str(data_set.SOPInstanceUID)))
            number = sum(one == patient_id for one, _uid in self.stored)
        if held := self._held.get((patient_id, number)):
            held.arrived.set()
            held.answer.wait(SECONDS)
        return 0

    def close(self) -> None:
        self._server.shutdown()


class CommandSite:
    """The folders of a site, its configuration, and what the command has noted.

    `destinations`: tables of the submitters. `to`: names of the destinations, by AE title. `running`: number of jobs
    that run at the same time.
    """

    def __init__(self, folder: Path, destinations: str, to: Mapping[str, Sequence[str]], running: int = 2) -> None:
        self.copies = folder / "copies"
        self._held = folder / "held"
        for created in (self.copies, self._held):
            created.mkdir()
        self._notes = folder / "notes.jsonl"
        program = folder / "program.py"
        program.write_text(PROGRAM, encoding="utf-8")
        self.configuration = CONFIGURATION.format(
            python=sys.executable,
            program=program,
            example=Path(example.__file__).parent,
            notes=self._notes,
            held=self._held,
            copies=self.copies,
            running=running,
        )
        self.configuration += destinations
        self.configuration += "".join(AE_TITLE.format(name=name, to=json.dumps(list(to[name]))) for name in to)

    def hold(self, ae_title: str) -> None:
        """Let the command of the AE title's jobs wait before it makes results."""
        (self._held / ae_title).touch()

    def release(self, ae_title: str) -> None:
        """Let the command continue."""
        (self._held / ae_title).unlink()

    def noted(self, what: str) -> list[dict[str, str]]:
        """Return the notes of the command of one kind, of all jobs."""
        text = self._notes.read_text(encoding="utf-8") if self._notes.exists() else ""
        return [entry for line in text.splitlines() if (entry := json.loads(line))["what"] == what]

    def runs(self, what: str) -> Counter[str]:
        """Return the number of notes of one kind by AE title."""
        return Counter(entry["aeTitle"] for entry in self.noted(what))


class ResultsSite(CommandSite):
    """A site with the destinations `drop`, a folder, and `pacs`."""

    def __init__(self, folder: Path, pacs: Pacs, ae_titles: Iterable[str]) -> None:
        self.pacs = pacs
        self.drop = folder / "drop"
        self.drop.mkdir()
        destinations = DESTINATIONS.format(drop=self.drop, port=pacs.port)
        super().__init__(folder, destinations, dict.fromkeys(ae_titles, ("drop", "pacs")))

    def dropped(self) -> list[str]:
        """Return the SOP Instance UIDs in the folder destination. Each folder has a manifest of exactly its files."""
        found = []
        for folder in (path for path in self.drop.iterdir() if not path.name.startswith(".")):
            manifest = json.loads((folder / "manifest.json").read_bytes())
            entries = manifest["files"]
            uids = [str(dcmread(folder / entry["name"]).SOPInstanceUID) for entry in entries]
            assert [entry["sopInstanceUid"] for entry in entries] == uids
            assert len(entries) + len(manifest["attachments"]) + 1 == len(list(folder.iterdir())), folder
            found += uids
        return found

    def dropped_reports(self) -> list[dict[str, Any]]:
        """Return the attachments in the folder destination, which are as their manifests list them."""
        found = []
        for path in self.drop.glob("[!.]*/manifest.json"):
            for entry in json.loads(path.read_bytes())["attachments"]:
                content = (path.parent / entry["name"]).read_bytes()
                assert entry["sha256"] == hashlib.sha256(content).hexdigest()
                found.append(json.loads(content))
        return found


def wait_until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} seconds"
        time.sleep(0.002)  # the pause of a loop that has a condition
