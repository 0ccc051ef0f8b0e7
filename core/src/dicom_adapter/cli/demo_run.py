"""The implementation of `dicom-adapter demo`: two real services in a temporary folder, and synthetic studies.

The first service is the adapter. The second one is the PACS of the demo: it writes what it receives to a folder.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from importlib.resources import files
from pathlib import Path

from pydicom.dataset import Dataset
from rich.console import Console
from rich.live import Live

from dicom_adapter.api.counts import counted
from dicom_adapter.cli.configuration import require_valid
from dicom_adapter.cli.demo_view import DemoState, View, print_news, read_view, render, table_of_jobs
from dicom_adapter.cli.messages import fail
from dicom_adapter.cli.wrapping import wrapped
from dicom_adapter.dicom import synthetic
from dicom_adapter.ledger import Ledger
from dicom_adapter.net import scu
from dicom_adapter.net.address import parse_address
from dicom_adapter.service.launch import LaunchedService, ServiceEnded

ADAPTER, PACS = "demo.toml", "demo-pacs.toml"  # configurations in the folder `examples` of the package
RESULTS = "results"  # folder to which the PACS writes the studies that it receives
PATIENT_STUDIES = 5  # number of studies of one patient, each in a separate association
HEAD_STUDIES = 3  # number of studies in one association
STUDIES = PATIENT_STUDIES + HEAD_STUDIES
EXPECTED_JOBS = 1 + HEAD_STUDIES  # one job for the patient of LUNG, one job for each study of HEAD
INSTANCES = 4  # of each study
LONGEST_PAUSE_S = 120.0  # time limit without any progress, for a busy machine; usually the demo takes about 30 s
TIMEOUT_S = 60.0  # of a response to the demo's sender
PAUSE_S = 0.8  # pause between two studies of the patient


def play(*, keep: bool) -> None:
    """Start the services, send studies, show what happens, and stop.

    Ends the command with status 1 if a result does not arrive.
    """
    folder = Path(tempfile.mkdtemp(prefix="dicom-adapter-demo-"))
    (folder / RESULTS).mkdir()
    try:
        with ExitStack() as services:
            pacs = _example(folder / "pacs", PACS, {'path = "pacs"': f"path = {json.dumps(str(folder / RESULTS))}"})
            port = _start(services, pacs)
            changes = {"port = 11113": f"port = {port}", '"python3"': json.dumps(sys.executable)}
            adapter = _example(folder / "adapter", ADAPTER, changes)
            view = _run(folder / "outgoing", _start(services, adapter), [adapter, pacs])
    except ServiceEnded as failure:
        raise fail(f"a service did not start: {failure}") from None
    _print_result(view, folder, keep=keep)


def _example(folder: Path, name: str, changes: Mapping[str, str]) -> Path:
    """Write an example to a folder of its own, because the log of a service is beside its configuration."""
    text = (files("dicom_adapter") / "examples" / name).read_text(encoding="utf-8")
    for before, after in changes.items():
        text = text.replace(before, after)
    folder.mkdir()
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _start(services: ExitStack, path: Path) -> int:
    """Start a service, which is stopped with `services`. Return its port."""
    service = LaunchedService(path, "--port", "0")
    services.callback(service.stop)
    return service.port()


def _run(outgoing: Path, port: int, configurations: Sequence[Path]) -> View:
    adapter, pacs = (Ledger(require_valid(path).ledger_url) for path in configurations)
    demo = DemoState(adapter=adapter, pacs=pacs)
    threading.Thread(target=_send_everything, args=(demo, outgoing, port), daemon=True).start()
    console = Console()
    with Live(console=console, refresh_per_second=8) if console.is_terminal else nullcontext() as live:
        while True:
            view = read_view(demo)
            if live is not None:
                live.update(render(demo, view))
            else:
                print_news(demo, view)
            demo.note_progress(view)
            if (
                (demo.has_sent and view.is_complete(STUDIES * INSTANCES))
                or view.needs_operator
                or demo.idle_seconds > LONGEST_PAUSE_S
            ):
                return view
            time.sleep(0.1)


def _print_result(view: View, folder: Path, *, keep: bool) -> None:
    console = Console()
    jobs = len(view.succeeded)
    if not view.is_complete(STUDIES * INSTANCES):
        console.print(table_of_jobs(view.jobs))
        found = (
            f"{view.processed} of {STUDIES * INSTANCES} instances are in the {jobs} jobs that succeeded, "
            f"{view.archived} of {view.delivered} results arrived"
        )
        raise fail(f"{found}; see {folder / 'adapter' / 'service.log'}")
    done = (
        f"Done. {STUDIES} studies became {counted(jobs, 'job')}. The pipeline made an image and a report for each "
        f"study, and the PACS has all {view.delivered} results."
    )
    where = f"They are in {folder / RESULTS}"
    lines = ["", *wrapped(done, "", ""), where, *_explain(jobs), "", "Try next:", "", *_next_commands()]
    if keep:
        lines += ["", f"The folder of this demo: {folder}"]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    if keep:
        return
    _delete_all_but(folder, RESULTS)


def _explain(jobs: int) -> list[str]:
    """Return lines with the reason why there are more jobs than usual; [] for the usual number."""
    if jobs == EXPECTED_JOBS:
        return []
    text = (
        f"Usually there are {EXPECTED_JOBS} jobs. This machine is busy: more time passed between two instances than "
        "their group waits, or an instance was sent again because its response was late."
    )
    return ["", *wrapped(text, "", "")]


def _delete_all_but(folder: Path, name: str) -> None:
    for path in folder.iterdir():
        if path.name == name:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _next_commands() -> Iterator[str]:
    """Yield the lines with the next commands, each after its purpose."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "dicom-adapter" else "dicom-adapter"
    yield "  # write a configuration: asks for AE titles, your pipeline and your PACS"
    yield f"  {program} init"
    yield "  # start the service"
    yield f"  {program} run"
    yield "  # in another terminal: send synthetic studies, then look at jobs and results"
    yield f"  {program} synthesize studies"
    yield f"  {program} send studies --to DICOM-ADAPTER@localhost:11112"
    yield f"  {program} jobs list"
    yield f"  {program} results list"


# --- sending ----------------------------------------------------------------------------------------------------------


def _send_everything(demo: DemoState, outgoing: Path, port: int) -> None:
    """Write all studies, then send them. Groups wait only shortly; writing between two studies could take longer."""
    lung = [
        _write(
            outgoing / f"lung-{number}", synthetic.make_study(modality="CT", patient_id="DEMO-1", instances=INSTANCES)
        )
        for number in range(PATIENT_STUDIES)
    ]
    head = [
        _write(
            outgoing / f"head-{number}",
            synthetic.make_study(modality="MR", patient_id=f"DEMO-{number + 2}", instances=INSTANCES),
        )
        for number in range(HEAD_STUDIES)
    ]
    for number, study in enumerate(lung):
        _send_studies(demo, f"LUNG@127.0.0.1:{port}", [study])
        if number == 1:
            _send_studies(demo, f"HEAD@127.0.0.1:{port}", head)
        time.sleep(PAUSE_S)
    demo.has_sent = True


def _write(folder: Path, study: Iterable[Dataset]) -> list[Path]:
    """Write a study. Return its files."""
    folder.mkdir(parents=True)
    paths = []
    for number, data_set in enumerate(study):
        paths.append(folder / f"{number}.dcm")
        synthetic.write(data_set, paths[-1])
    return paths


def _send_studies(demo: DemoState, to: str, studies: Sequence[Sequence[Path]]) -> None:
    address = parse_address(to)
    paths = [path for study in studies for path in study]
    summary = scu.send(paths, address, calling_ae_title="DEMO-SCU", timeout=TIMEOUT_S, on_result=lambda _result: None)
    count = counted(len(studies), "study")
    demo.add_message(f"{count}, {counted(summary.sent, 'instance')} sent to {address.ae_title} in one association")
