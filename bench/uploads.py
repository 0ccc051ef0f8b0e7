"""Measure how fast a large job reaches the platform, and the adapter's memory during the upload.

    .venv/bin/python bench/uploads.py [--instances 2000] [--repeat 3] [--protocol grpc|rest|both]

Each round runs each measurement once, so that other load of the machine affects all measurements alike. A round reads
and writes the files, uploads them with a plain loop, and uploads them with the adapter. Loop and adapter upload to a
server of minimal cost (`sink`), which shows the cost of the adapter, and to the platform emulator, which keeps the
files. The results are medians.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import attrs
import typer
import upload_files
import upload_runs
from machine import Machine, describe
from rich.console import Console
from rich.table import Table
from upload_runs import SERVERS, SINK, Run

RESULTS = Path(__file__).parent / "results"
DISK_RUNS = READ_FROM_DISK, READ, WRITE, WRITE_AND_SYNC = ("read from disk", "read", "write", "write and sync")
MIN_RATIO = 0.7  # minimum of this quotient: the adapter's rate / the lower one of the rates of disk and loop
MAX_GROWTH_MB = 50.0  # maximum of the growth of the adapter's memory during the job
LARGEST = 20_000  # maximum of --instances: 10 GB
MAX_ROUNDS = 20
LONGEST_S = 1800.0  # no round begins later than this after the start

Runs = dict[str, list[Run]]


class Protocol(str, Enum):
    """The protocols of the upload."""

    GRPC = "grpc"
    REST = "rest"
    BOTH = "both"

    @property
    def names(self) -> tuple[str, ...]:
        return ("grpc", "rest") if self is Protocol.BOTH else (self.value,)


def main(
    instances: Annotated[int, typer.Option(min=32, max=LARGEST, help="CT images of 512 KiB in the job.")] = 2000,
    repeat: Annotated[int, typer.Option(min=1, max=MAX_ROUNDS, help="Rounds.")] = 3,
    protocol: Annotated[Protocol, typer.Option(help="Protocol of the submitter.")] = Protocol.BOTH,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Concurrent uploads.")] = 4,
    folder: Annotated[Path | None, typer.Option(help="Folder of the files (default: a temporary one).")] = None,
) -> None:
    """Measure uploads, print a table, and write bench/results/uploads.json and .md."""
    console = Console(width=130)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the files are deleted
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-uploads-", dir=folder) as made:
        machine = describe(Path(made))
        console.print(f"{machine}\nmaking {instances} instances …", highlight=False)
        files = upload_files.make(Path(made) / "instances", instances)
        runs = _measure(files, Path(made), repeat, protocol.names, parallel, console)
    what = f"{instances} CT images of 512 KiB ({files.size_bytes / 1e9:.2f} GB), {parallel} at a time"
    _report(runs, protocol.names, machine, what, console)


def _measure(
    files: upload_files.Instances,
    folder: Path,
    repeat: int,
    protocols: Sequence[str],
    parallel: int,
    console: Console,
) -> Runs:
    began = time.monotonic()
    runs: Runs = {}
    for number in range(1, repeat + 1):
        if time.monotonic() - began > LONGEST_S:
            console.print(f"ended after {number - 1} rounds: the time limit was reached")
            break
        for name, measure in _round(files, folder / f"round-{number}", protocols, parallel):
            runs.setdefault(name, []).append(measured := measure())
            console.print(f"round {number}: {name}: {measured.mb_per_s:.0f} MB/s", highlight=False)
    return runs


def _round(
    files: upload_files.Instances, folder: Path, protocols: Sequence[str], parallel: int
) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Yield the name and the function of each run of a round. The caller calls the function before it continues.

    After the first run, the files are in the page cache, like files that were just received.
    """
    folder.mkdir()
    yield READ_FROM_DISK, partial(upload_runs.disk, files, partial(upload_files.read_all, files, cached=False))
    yield READ, partial(upload_runs.disk, files, partial(upload_files.read_all, files, cached=True))
    for name, sync in ((WRITE, False), (WRITE_AND_SYNC, True)):
        written = folder / name.replace(" ", "-")
        yield name, partial(upload_runs.disk, files, partial(upload_files.write_all, files, written, sync=sync))
        upload_files.truncate_received(written)
    for protocol in protocols:
        for server in SERVERS:
            for upload in (upload_runs.plain, upload_runs.adapter):
                name = _name(protocol, server, upload.__name__)
                yield name, partial(upload, files, folder / name.replace(" ", "-"), protocol, server, parallel)


def _name(protocol: str, server: str, uploader: str) -> str:
    return f"{protocol} to {server}: {uploader}"


# --- report -----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Verdict:
    """The adapter's figures, and the figures with which they are compared."""

    protocol: str
    server: str
    adapter_mb_per_s: float
    plain_mb_per_s: float
    read_mb_per_s: float
    ratio_to_plain: float  # median of the ratios of each round
    ratio_to_slower: float  # the slower of plain loop and disk
    cpu_s_per_gb: float  # host process
    plain_cpu_s_per_gb: float
    growth_mb: float  # maximum of all rounds
    growth_uploading_mb: float  # since the first upload, maximum of all rounds
    resident_mb: float  # all processes of the adapter, before the job

    @property
    def meets_limits(self) -> bool:
        return self.ratio_to_slower >= MIN_RATIO and self.growth_mb < MAX_GROWTH_MB


def _verdict(runs: Runs, protocol: str, server: str) -> Verdict:
    ours, theirs = (runs[_name(protocol, server, uploader)] for uploader in ("adapter", "plain"))
    read = _median_of(runs[READ], "mb_per_s")
    ratios = [our.mb_per_s / their.mb_per_s for our, their in zip(ours, theirs, strict=True)]
    slower = [our.mb_per_s / min(their.mb_per_s, read) for our, their in zip(ours, theirs, strict=True)]
    return Verdict(
        protocol=protocol,
        server=server,
        adapter_mb_per_s=_median_of(ours, "mb_per_s"),
        plain_mb_per_s=_median_of(theirs, "mb_per_s"),
        read_mb_per_s=read,
        ratio_to_plain=statistics.median(ratios),
        ratio_to_slower=statistics.median(slower),
        cpu_s_per_gb=_median_of(ours, "cpu_s_per_gb"),
        plain_cpu_s_per_gb=_median_of(theirs, "cpu_s_per_gb"),
        growth_mb=max(run.growth_bytes or 0 for run in ours) / 1e6,
        growth_uploading_mb=max(run.growth_uploading_bytes or 0 for run in ours) / 1e6,
        resident_mb=_median_of(ours, "resident_bytes") / 1e6,
    )


def _median_of(runs: Sequence[Run], field: str) -> float:
    values: list[float] = [getattr(run, field) for run in runs]
    return statistics.median(values)


HEADINGS = {
    "server": "protocol, server",
    "adapter": "adapter, MB/s",
    "plain": "plain loop, MB/s",
    "ratio": "ratio",
    "slower": "to the slower of loop and disk",
    "cpu": "CPU s per GB (loop's)",
    "growth": "memory growth, MB (uploading)",
    "meets_limits": "limits met",
}


def _cells(verdict: Verdict) -> list[str]:
    return [
        f"{verdict.protocol}, {verdict.server}",
        f"{verdict.adapter_mb_per_s:.0f}",
        f"{verdict.plain_mb_per_s:.0f}",
        f"{verdict.ratio_to_plain:.2f}",
        f"{verdict.ratio_to_slower:.2f}",
        f"{verdict.cpu_s_per_gb:.2f} ({verdict.plain_cpu_s_per_gb:.2f})",
        f"{verdict.growth_mb:.0f} ({verdict.growth_uploading_mb:.0f})",
        "yes" if verdict.meets_limits else "NO",
    ]


def _report(runs: Runs, protocols: Sequence[str], machine: Machine, what: str, console: Console) -> None:
    verdicts = [_verdict(runs, protocol, server) for protocol in protocols for server in SERVERS]
    table = Table(*HEADINGS.values())
    for verdict in verdicts:
        table.add_row(*_cells(verdict))
    console.print(table)
    disk = {name: _median_of(runs[name], "mb_per_s") for name in DISK_RUNS}
    console.print(", ".join(f"{name} {rate:.0f} MB/s" for name, rate in disk.items()), highlight=False)
    RESULTS.mkdir(exist_ok=True)
    rounds = len(runs[READ])
    (RESULTS / "uploads.md").write_text(_page(verdicts, disk, machine, what, rounds), encoding="utf-8")
    values = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": attrs.asdict(machine),
        "what": what,
        "verdicts": [attrs.asdict(verdict) for verdict in verdicts],
        "runs": {name: [_facts(run) for run in of_name] for name, of_name in runs.items()},
    }
    (RESULTS / "uploads.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _facts(run: Run) -> Mapping[str, float]:
    return {name: round(value, 3) for name, value in attrs.asdict(run).items() if value is not None}


def _page(verdicts: Sequence[Verdict], disk: Mapping[str, float], machine: Machine, what: str, rounds: int) -> str:
    rows = [list(HEADINGS.values()), ["---"] * len(HEADINGS), *map(_cells, verdicts)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    rates = ", ".join(f"{name} {rate:.0f} MB/s" for name, rate in disk.items())
    return f"""# Uploading a large job

One job of {what}, from `job_metadata_sent` to `job_uploaded` in the adapter's log, on loopback.

{table}

The disk, one file after another: {rates}.

- Medians of {rounds} rounds; a ratio is the median of the rounds' ratios; memory growth is the worst round's.
- The *plain loop* uploads the same files with the generated stub or with httpx, as many at a time and in the same
  pieces, without verification, ledger or retries.
- *{SINK}* is a server that discards everything; the *emulator* stores the files, and uses more CPU time than the
  client.
- In all uploads the files are in the page cache, as they are just after reception. Therefore *disk* in the column *to
  the slower of loop and disk* is the rate *read*, not *read from disk*.
- *limits met*: the ratio to the slower is at least {MIN_RATIO}, and the memory growth is below
  {MAX_GROWTH_MB:.0f} MB.
- CPU is that of the adapter's host process, and of the plain loop.
- Memory: the highest resident memory of all processes of the adapter minus their memory before the job; in brackets
  minus their memory before the first upload.
- The adapter runs with its defaults: each stored file is verified while it is read, and the progress is
  committed after every 256 files.

Measured with `bench/uploads.py` on {machine}.
"""


if __name__ == "__main__":
    typer.run(main)
