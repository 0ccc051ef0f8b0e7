"""Measure how fast instances are received, compared with the other receivers that are installed.

    .venv/bin/python bench/receiving.py [--repeat 3] [--seconds 3] [--only adapter --only orthanc]

In each round, all receivers run each workload one after the other, so that other load of the machine affects all
receivers alike. The sender sends PDUs that were encoded in advance, over loopback, from one or eight processes. Every
run has a newly started receiver and an empty folder. The results are medians.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import attrs
import receive_runs
import typer
from machine import describe
from receive_instances import write_data_sets
from receive_link import LinkFailed
from receive_receivers import RECEIVERS, Receiver
from receive_report import ADAPTER, BUSY, MIN_RATIOS, THROUGHPUT, Results, number, ratio_verdicts, to_json
from receive_values import WORKLOADS, Associations, Rate, Workload
from results_page import write_results
from rich.console import Console
from rich.table import Table

MAX_ROUNDS = 20
LONGEST_PDU = 16384  # as in DCMTK's and most other clients
OURS = (ADAPTER, BUSY)  # keys of the receivers that must not fail: the adapter, without and with a busy plugin
QUICK_S = 1.5  # approximate seconds of each run with --quick


@attrs.define
class Measurement:
    """The results so far. A product that fails is excluded from later rounds. The adapter must not fail."""

    receivers: list[Receiver]
    left_out: list[str] = attrs.field(factory=list)
    rates: dict[str, dict[str, list[Rate]]] = attrs.field(factory=dict)
    associations: dict[str, list[Associations]] = attrs.field(factory=dict)

    def exclude(self, receiver: Receiver, why: str) -> None:
        self.receivers.remove(receiver)
        self.left_out.append(f"{receiver.name} ({why})")
        self.rates.pop(receiver.key, None)
        self.associations.pop(receiver.key, None)


def main(
    repeat: Annotated[int, typer.Option(min=1, max=MAX_ROUNDS, help="Rounds.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.2, max=60, help="Approximate seconds of each run.")] = 3.0,
    longest_pdu: Annotated[int, typer.Option("--pdu", min=4096, max=1 << 20, help="Maximum PDU length.")] = LONGEST_PDU,
    only: Annotated[list[str] | None, typer.Option(help="Measure these receivers only, and write no results.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of the files (default: a temporary one).")] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="One short round, in four minutes, of the adapter and the receivers that its speed is checked "
            "against; writes nothing.",
        ),
    ] = False,
) -> None:
    """Measure receiving, print tables, and write bench/results/receiving.json and docs/performance.md."""
    console = Console(width=140)
    if quick:
        repeat, seconds, only = 1, QUICK_S, only or [ADAPTER, *MIN_RATIOS]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the files are deleted
    measurement = _begin(only)
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-receiving-", dir=folder) as made:
        machine = describe(Path(made))
        console.print(f"{machine}\nnot measured: {', '.join(measurement.left_out) or 'nothing'}", highlight=False)
        _measure(measurement, Path(made), repeat, seconds, longest_pdu, console)
        console.print("deleting the files …")
    _show(measurement, console)
    if only is None:
        about = {"machine": attrs.asdict(machine), "rounds": repeat, "seconds": seconds, "longest_pdu": longest_pdu}
        write_results("receiving", {**about, **_as_json(measurement)})


def _begin(only: Sequence[str] | None) -> Measurement:
    unknown = sorted(set(only or ()) - {receiver.key for receiver in RECEIVERS})
    if unknown:
        known = ", ".join(receiver.key for receiver in RECEIVERS)
        raise typer.BadParameter(f"there is no receiver {', '.join(unknown)} (there are: {known})", param_hint="--only")
    wanted = [receiver for receiver in RECEIVERS if only is None or receiver.key in only]
    measurement = Measurement(wanted)
    for receiver in RECEIVERS:
        if receiver in wanted and receiver.product.find() is None:
            measurement.exclude(receiver, "not installed")
    return measurement


def _measure(
    measurement: Measurement, folder: Path, repeat: int, seconds: float, longest_pdu: int, console: Console
) -> None:
    data_sets = write_data_sets(folder)

    def measure_rate(receiver: Receiver, run_folder: Path, label: str, workload: Workload) -> None:
        data_set = data_sets[workload.size]
        rate = receive_runs.run_workload(receiver, workload, run_folder, data_set, seconds, longest_pdu)
        measurement.rates.setdefault(receiver.key, {}).setdefault(workload.key, []).append(rate)
        console.print(f"{label}: {receiver.name}: {rate.rate:,.0f} per second", highlight=False)

    def measure_associations(receiver: Receiver, run_folder: Path, label: str) -> None:
        cost = receive_runs.run_associations(receiver, run_folder)
        measurement.associations.setdefault(receiver.key, []).append(cost)
        console.print(f"{label}: {receiver.name}: accepts in {cost.accept_ms:.2f} ms", highlight=False)

    for round_number in range(1, repeat + 1):
        for workload in WORKLOADS:
            label = f"round {round_number}, {workload.key}"
            _for_each_receiver(measurement, folder, label, partial(measure_rate, workload=workload))
        _for_each_receiver(measurement, folder, f"round {round_number}, associations", measure_associations)


def _for_each_receiver(
    measurement: Measurement, folder: Path, label: str, measure: Callable[[Receiver, Path, str], None]
) -> None:
    """Call `measure` for each receiver, with a folder of its own. The label names the round and the workload."""
    (folder / label).mkdir()
    for receiver in tuple(measurement.receivers):
        try:
            measure(receiver, folder / label / receiver.key, label)
        except (LinkFailed, OSError) as failure:
            if receiver.key in OURS:
                raise
            measurement.exclude(receiver, f"failed: {failure}")


def _show(measurement: Measurement, console: Console) -> None:
    table = Table("receiver", *(workload.name for workload in WORKLOADS), "memory, MB")
    results = Results(rates=measurement.rates, associations=measurement.associations)
    for receiver in measurement.receivers:
        rates = [number(results.rate(receiver.key, workload.key)) for workload in WORKLOADS]
        table.add_row(receiver.name, *rates, number(results.peak_mb(receiver.key)))
    console.print(table)
    if ADAPTER in measurement.rates:
        ratios = Table("dicom-adapter divided by", *THROUGHPUT)
        names = {receiver.key: receiver.name for receiver in measurement.receivers}
        for key, found in ratio_verdicts(results).items():
            if key != BUSY:
                ratios.add_row(names[key], *(f"{verdict.text()} ({verdict.limit_text()})" for verdict in found))
        console.print(ratios)


def _as_json(measurement: Measurement) -> dict[str, Any]:
    results = Results(rates=measurement.rates, associations=measurement.associations)
    return {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "names": {receiver.key: receiver.name for receiver in measurement.receivers},
        "syncs": [receiver.key for receiver in measurement.receivers if receiver.syncs],
        "versions": {receiver.product.name: receiver.product.version() for receiver in measurement.receivers},
        "left_out": measurement.left_out,
        **to_json(results),
    }


if __name__ == "__main__":
    typer.run(main)
