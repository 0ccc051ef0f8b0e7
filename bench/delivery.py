"""Measure how fast a large job is delivered over C-STORE, compared with DCMTK's dcmsend, and the adapter's memory.

    .venv/bin/python bench/delivery.py [--instances 2000] [--repeat 5]

Each round runs each sender once, in another order, so that other load of the machine affects all alike. All send the
same files to a new `storescp +B`: DCMTK's dcmsend, the submitter `dicom` alone, and the whole adapter. The results are
medians.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import attrs
import delivery_runs
import typer
import upload_files
from machine import Machine, describe
from rich.console import Console
from rich.table import Table
from upload_runs import Run

RESULTS = Path(__file__).parent / "results"
MIN_RATIO = 0.8  # minimum of the adapter's rate divided by dcmsend's
MAX_GROWTH_MB = 50.0  # maximum of the growth of the adapter's memory during the job
LARGEST = 20_000  # maximum of --instances: 10 GB
MAX_ROUNDS = 20
LONGEST_S = 1800.0  # no round begins later than this after the start
DCMSEND = "dcmsend"

Runs = dict[str, list[Run]]


def main(
    instances: Annotated[int, typer.Option(min=32, max=LARGEST, help="CT images of 512 KiB in the job.")] = 2000,
    repeat: Annotated[int, typer.Option(min=1, max=MAX_ROUNDS, help="Rounds; each runs every sender once.")] = 5,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Concurrent uploads.")] = 4,
    associations: Annotated[int, typer.Option(min=1, max=32, help="Concurrent associations.")] = 1,
    folder: Annotated[Path | None, typer.Option(help="Folder of the files (default: a temporary one).")] = None,
) -> None:
    """Measure deliveries, print a table, and write bench/results/delivery.json and .md."""
    console = Console(width=130)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the files are deleted
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-delivery-", dir=folder) as made:
        machine = describe(Path(made))
        console.print(f"{machine}\nmaking {instances} instances …", highlight=False)
        files = upload_files.make(Path(made) / "instances", instances)
        upload_files.read_all(files, cached=True)
        runs = _measure(files, Path(made), repeat, parallel, associations, console)
    what = f"{instances} CT images of 512 KiB ({files.size_bytes / 1e9:.2f} GB), {parallel} uploads at a time, "
    _report(runs, machine, what + f"{associations} association(s)", console)


def _measure(
    files: upload_files.Instances, folder: Path, repeat: int, parallel: int, associations: int, console: Console
) -> Runs:
    began = time.monotonic()
    runs: Runs = {}
    for number in range(1, repeat + 1):
        if time.monotonic() - began > LONGEST_S:
            console.print(f"ended after {number - 1} rounds: the time limit was reached")
            break
        place = folder / f"round-{number}"
        place.mkdir()
        for name, measure in delivery_runs.senders(files, place, number, parallel, associations):
            runs.setdefault(name, []).append(measured := measure())
            console.print(f"round {number}: {name}: {measured.mb_per_s:.0f} MB/s", highlight=False)
    return runs


# --- report -----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class DeliveryVerdict:
    """The figures of one sender."""

    sender: str
    mb_per_s: float
    ratio: float  # of the rate to that of dcmsend: median of the ratios of each round
    cpu_s_per_gb: float
    growth_mb: float | None  # of the memory, maximum of all rounds; None for dcmsend

    @property
    def meets_limits(self) -> bool:
        return self.ratio >= MIN_RATIO and (self.growth_mb or 0) < MAX_GROWTH_MB


def _verdict(runs: Runs, sender: str) -> DeliveryVerdict:
    ours, theirs = runs[sender], runs[DCMSEND]
    growths = [run.growth_bytes / 1e6 for run in ours if run.growth_bytes is not None]
    return DeliveryVerdict(
        sender=sender,
        mb_per_s=statistics.median(run.mb_per_s for run in ours),
        ratio=statistics.median(our.mb_per_s / their.mb_per_s for our, their in zip(ours, theirs, strict=True)),
        cpu_s_per_gb=statistics.median(run.cpu_s_per_gb or 0 for run in ours),
        growth_mb=max(growths, default=None),
    )


HEADINGS = ("sender", "MB/s", "ratio to dcmsend", "CPU s per GB", "memory growth, MB", "limits met")


def _cells(verdict: DeliveryVerdict) -> list[str]:
    return [
        verdict.sender,
        f"{verdict.mb_per_s:.0f}",
        f"{verdict.ratio:.2f}",
        f"{verdict.cpu_s_per_gb:.2f}",
        "" if verdict.growth_mb is None else f"{verdict.growth_mb:.0f}",
        "yes" if verdict.meets_limits else "NO",
    ]


def _report(runs: Runs, machine: Machine, what: str, console: Console) -> None:
    verdicts = [_verdict(runs, sender) for sender in delivery_runs.SENDERS]
    table = Table(*HEADINGS)
    for verdict in verdicts:
        table.add_row(*_cells(verdict))
    console.print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "delivery.md").write_text(_page(verdicts, machine, what, len(runs[DCMSEND])), encoding="utf-8")
    values = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": attrs.asdict(machine),
        "what": what,
        "verdicts": [attrs.asdict(verdict) for verdict in verdicts],
        "runs": {name: [_facts(run) for run in of_name] for name, of_name in runs.items()},
    }
    (RESULTS / "delivery.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _facts(run: Run) -> Mapping[str, float]:
    return {name: round(value, 3) for name, value in attrs.asdict(run).items() if value is not None}


def _page(verdicts: Sequence[DeliveryVerdict], machine: Machine, what: str, rounds: int) -> str:
    rows = [list(HEADINGS), ["---"] * len(HEADINGS), *map(_cells, verdicts)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"""# Delivering a large job over C-STORE

{what}, to DCMTK's `storescp +B` on loopback.

{table}

- Medians of {rounds} rounds; a ratio is the median of the rounds' ratios; memory growth is the worst round's.
- *dcmsend*: the whole run of the program, over one association.
- *submitter*: the submitter `dicom` in a process of its own, from the first to the last upload.
- *adapter*: the whole service, from `job_metadata_sent` to `job_uploaded` in its log. Each stored file is verified
  while it is read, and the progress is committed after every 256 files.
- All files are in the page cache, as they are just after reception. Nothing waits to be written when a run begins.
- DCMTK's programs run with `TCP_NODELAY=1`. With their defaults, each response takes 40 ms for dcmsend (the Nagle
  algorithm in storescp, and delayed acknowledgements), but not for the adapter, which acknowledges at once.
- *limits met*: the ratio is at least {MIN_RATIO}, and the memory growth is below {MAX_GROWTH_MB:.0f} MB.
- CPU is that of dcmsend, of the submitter's process, and of the adapter's host process.

Measured with `bench/delivery.py` on {machine}.
"""


if __name__ == "__main__":
    typer.run(main)
