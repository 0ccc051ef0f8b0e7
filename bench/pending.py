"""Measure the cost of an instance while many instances are pending.

    .venv/bin/python bench/pending.py [--instances 200000] [--repeat 3] [--seconds 3]

In each round a service with an empty ledger and a service with many pending instances receive the same small instances
from eight senders. The result is the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Annotated

import attrs
import receive_runs
import typer
from machine import describe
from pending_rows import make_ledger
from receive_adapter import adapter
from receive_instances import write_data_sets
from receive_receivers import ADAPTER, Receiver, Start
from receive_values import AE_TITLE, WORKLOADS, Rate
from receiving import LONGEST_PDU, MAX_ROUNDS
from results_page import write_results
from rich.console import Console

SMALL_8 = next(workload for workload in WORKLOADS if workload.key == "small-8")


def main(
    instances: Annotated[int, typer.Option(min=1000, max=10_000_000, help="Pending instances.")] = 200_000,
    repeat: Annotated[int, typer.Option(min=1, max=MAX_ROUNDS, help="Rounds.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.2, max=60, help="Approximate seconds of each run.")] = 3.0,
) -> None:
    """Measure, print, and write bench/results/pending.json."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-pending-") as made:
        folder = Path(made)
        machine = describe(folder)
        console.print(f"{machine}\nmaking {instances} rows …", highlight=False)
        make_ledger(folder / "pending", instances, [AE_TITLE], age=timedelta())
        data_set = write_data_sets(folder)["small"]
        starts: dict[str, Start] = {"none": adapter, "many": partial(adapter, data=folder / "pending")}
        runs: dict[str, list[Rate]] = {name: [] for name in starts}
        for number in range(1, repeat + 1):
            for name, start in starts.items():
                receiver = Receiver(key=name, name=name, product=ADAPTER, syncs=True, idle_associations=0, start=start)
                place = folder / f"{name}-{number}"
                run = receive_runs.run_workload(receiver, SMALL_8, place, data_set, seconds, LONGEST_PDU)
                runs[name].append(run)
                console.print(f"round {number}: {name} pending: {run.rate:,.0f} per second, {run.cpu_ms:.3f} ms CPU")
    found = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": attrs.asdict(machine),
        "instances": instances,
        "rounds": repeat,
        "rate": statistics.median(run.rate for run in runs["many"]),
        "rate_with_none": statistics.median(run.rate for run in runs["none"]),
        "rate_ratio": _ratio(runs["many"], runs["none"], "rate"),
        "cpu_ratio": _ratio(runs["many"], runs["none"], "cpu_ms"),
    }
    console.print(f"rate {found['rate_ratio']:.3f}, CPU {found['cpu_ratio']:.3f} of those with none", highlight=False)
    write_results("pending", found)


def _ratio(ours: Sequence[Rate], theirs: Sequence[Rate], field: str) -> float:
    values: list[float] = [getattr(our, field) / getattr(their, field) for our, their in zip(ours, theirs, strict=True)]
    return statistics.median(values)


if __name__ == "__main__":
    typer.run(main)
