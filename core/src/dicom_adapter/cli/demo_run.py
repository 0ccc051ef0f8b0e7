"""The implementation of `dicom-adapter demo`: a real service in a temporary folder, and synthetic studies."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path

from attrs import define, field, frozen
from pydicom.dataset import Dataset
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dicom_adapter.api.values import Job, JobState
from dicom_adapter.cli.configuration import EXAMPLE, require_valid
from dicom_adapter.cli.messages import fail
from dicom_adapter.dicom import synthetic
from dicom_adapter.ledger import Ledger, instances, jobs, lanes
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.net import scu
from dicom_adapter.net.address import parse_address
from dicom_adapter.service.launch import LaunchedService, ServiceEnded

PATIENT_STUDIES = 5  # number of studies of one patient, each in a separate association
HEAD_STUDIES = 3  # number of studies in one association
EXPECTED_JOBS = 3 + HEAD_STUDIES  # one job for each pipeline of LUNG, one job for each study of HEAD
LONGEST_S = 80.0  # time limit for a busy machine; usually the demo takes about 15 s
PAUSE_S = 0.8  # pause between two studies of the patient


@define
class DemoState:
    """The state of a running demo."""

    folder: Path
    port: int
    ledger: Ledger
    began: float = field(factory=time.monotonic)
    messages: list[str] = field(factory=list)
    printed: set[str] = field(factory=set)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def add_message(self, line: str) -> None:
        self.messages.append(f"{self.seconds:5.1f} s  {line}")


@frozen
class LedgerView:
    """The contents of the ledger at one time."""

    lanes: dict[str, LaneReport]
    counts: dict[tuple[str, str], int]  # number of instances by AE title and state
    jobs: list[Job]  # oldest first


def play(*, keep: bool) -> None:
    """Start the service, send studies, show their progress, and stop.

    Ends the command with status 1 if a job is missing.
    """
    folder = Path(tempfile.mkdtemp(prefix="dicom-adapter-demo-"))
    path = folder / EXAMPLE
    path.write_text((files("dicom_adapter") / "examples" / EXAMPLE).read_text(encoding="utf-8"), encoding="utf-8")
    service = LaunchedService(path, "--port", "0")
    try:
        found = _run(folder, path, service.port())
    except ServiceEnded as failure:
        raise fail(f"the service did not start: {failure}") from None
    finally:
        service.stop()
    _print_result(found, path, keep=keep)


def _run(folder: Path, path: Path, port: int) -> list[Job]:
    config = require_valid(path)
    demo = DemoState(folder=folder, port=port, ledger=Ledger(config.ledger_url))
    threading.Thread(target=_send_everything, args=(demo,), daemon=True).start()
    console = Console()
    with Live(console=console, refresh_per_second=8) if console.is_terminal else nullcontext() as live:
        while True:
            view = _read_ledger(demo)
            if live is not None:
                live.update(_render(demo, view))
            else:
                _print_news(demo, view)
            if _is_over(demo, view):
                return view.jobs
            time.sleep(0.1)


def _is_over(demo: DemoState, view: LedgerView) -> bool:
    submitted = sum(job.state is JobState.SUBMITTED for job in view.jobs)
    return submitted >= EXPECTED_JOBS or demo.seconds > LONGEST_S


def _print_result(found: list[Job], path: Path, *, keep: bool) -> None:
    console = Console()
    submitted = [job for job in found if job.state is JobState.SUBMITTED]
    if len(submitted) != EXPECTED_JOBS:
        console.print(_jobs(found))
        raise fail(f"{len(submitted)} of {EXPECTED_JOBS} jobs were submitted; see {path.parent / 'service.log'}")
    console.print(
        f"\n[bold green]Done.[/bold green] {PATIENT_STUDIES} studies of one patient to LUNG became one job for each of "
        f"its 3 pipelines;\n{HEAD_STUDIES} studies in one association to HEAD became one job each. Try next:\n",
        soft_wrap=True,
    )
    for command in _next_commands():
        console.print(f"  {command}", highlight=False, soft_wrap=True)
    if keep:
        console.print(f"\nThe folder of this demo: {path.parent}")
    else:
        shutil.rmtree(path.parent)


def _next_commands() -> Iterator[str]:
    program = sys.argv[0] if Path(sys.argv[0]).name == "dicom-adapter" else "dicom-adapter"
    yield f"cp {files('dicom_adapter') / 'examples' / EXAMPLE} ."
    yield f"{program} run {EXAMPLE}"
    yield f"{program} synthesize studies        # in another terminal"
    yield f"{program} send studies --to HEAD@localhost:11112"
    yield f"{program} jobs list --config {EXAMPLE}"


# --- sending ----------------------------------------------------------------------------------------------------------


def _send_everything(demo: DemoState) -> None:
    outgoing = demo.folder / "outgoing"
    for number in range(PATIENT_STUDIES):
        study = synthetic.make_study(modality="CT", patient_id="DEMO-1", instances=4)
        _send_studies(demo, "LUNG", [study], outgoing / f"lung-{number}")
        if number == 1:
            heads = [synthetic.make_study(modality="MR", patient_id=f"DEMO-{n + 2}") for n in range(HEAD_STUDIES)]
            _send_studies(demo, "HEAD", heads, outgoing / "heads")
        time.sleep(PAUSE_S)


def _send_studies(demo: DemoState, ae_title: str, studies: list[list[Dataset]], folder: Path) -> None:
    folder.mkdir(parents=True)
    paths: list[Path] = []
    for data_set in (data_set for study in studies for data_set in study):
        paths.append(folder / f"{len(paths)}.dcm")
        synthetic.write(data_set, paths[-1])
    address = parse_address(f"{ae_title}@127.0.0.1:{demo.port}")
    summary = scu.send(paths, address, calling_ae_title="DEMO-SCU", timeout=10, on_result=lambda _result: None)
    count = "1 study" if len(studies) == 1 else f"{len(studies)} studies"
    demo.add_message(f"{count}, {summary.sent} instances sent to {ae_title} in one association")


# --- showing ----------------------------------------------------------------------------------------------------------


def _read_ledger(demo: DemoState) -> LedgerView:
    with demo.ledger.read() as transaction:
        found = [row.job for row in reversed(jobs.newest(transaction, 100))]
        return LedgerView(lanes.load(transaction), instances.count_by_state(transaction), found)


def _render(demo: DemoState, view: LedgerView) -> Group:
    return Group(Text("\n".join(demo.messages)), _lanes(view.lanes, view.counts), _jobs(view.jobs))


def _jobs(found: Sequence[Job]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for job in found:
        table.add_row(escape(job.name), f"{job.instance_count} instances", job.state.value)
    return table


def _print_news(demo: DemoState, view: LedgerView) -> None:
    """Print a line for each change; used if the output is not a terminal."""
    for line in list(demo.messages):
        _once(demo, line, line)
    for ae_title, report in view.lanes.items():
        for group in report.waiting:
            line = f"{ae_title} waits: {group.label[:40]}, {group.instance_count} instances{_countdown(group.until)}"
            _once(demo, line, f"{demo.seconds:5.1f} s  {line}")
    for job in view.jobs:
        line = f"job {job.name}, pipeline {job.pipeline_id}, priority {job.priority.value}, "
        line += f"{job.instance_count} instances: {job.state.value}"
        _once(demo, job.job_id + job.state.value, f"{demo.seconds:5.1f} s  {line}")


def _once(demo: DemoState, key: str, line: str) -> None:
    if key not in demo.printed:
        demo.printed.add(key)
        print(line, flush=True)  # noqa: T201 - this is a command


def _lanes(reports: dict[str, LaneReport], counts: dict[tuple[str, str], int]) -> Table:
    table = Table("AE title", "Received", "Pending", "Reclaimed", "Groups and when they become jobs")
    for ae_title, report in reports.items():
        of = {state: count for (name, state), count in counts.items() if name == ae_title}
        groups = "\n".join(
            f"{group.label[:40]}: {group.instance_count} instances{_countdown(group.until)}" for group in report.waiting
        )
        numbers = (sum(of.values()), of.get("pending", 0), of.get("reclaimed", 0))
        table.add_row(ae_title, *map(str, numbers), groups)
    return table


def _countdown(until: datetime | None) -> str:
    if until is None:
        return ""
    return f", in {max(0.0, (until - datetime.now(timezone.utc)).total_seconds()):.0f} s"
