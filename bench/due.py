"""Measure the time from the end of a group's wait to its job, with many open groups.

    .venv/bin/python bench/due.py [--groups 10000] [--probes 400] [--wait 120]

Each group is one instance of a new study. A service first receives the probes, 10 per second, and then all the other
groups. The probes become due at the rate at which they arrived, while the other groups are still waiting. The delay of
a job is the time from the due time of its group (the creation time of the job in the ledger) to `job_queued` in the
log, which follows the commit.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated

import attrs
import typer
from machine import describe
from receive_adapter import START_S, configure
from receive_instances import write_data_sets
from receive_link import Link
from receive_pdus import make_uid, store_request
from receive_values import AE_TITLE
from receiving import LONGEST_PDU
from results_page import write_results
from rich.console import Console
from sqlalchemy import select

from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.schema import jobs
from dicom_adapter.service.launch import LaunchedService, LogEntry

PROBES_PER_S = 10
SENDERS = 8  # number of threads that send the other groups, each in one association
LONGEST_S = 60.0  # maximum delay of a job before the measurement is aborted


class TooSlow(Exception):
    """The first groups were due before all groups were open."""


def main(
    groups: Annotated[int, typer.Option(min=0, max=1_000_000, help="Groups that are not due yet.")] = 10_000,
    probes: Annotated[int, typer.Option(min=100, max=100_000, help="Groups whose delay is measured.")] = 400,
    wait: Annotated[float, typer.Option(min=30, max=3600, help="Seconds that a group waits.")] = 120.0,
) -> None:
    """Measure, print, and write bench/results/due.json."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-due-") as temporary:
        folder = Path(temporary)
        machine = describe(folder)
        console.print(f"{machine}\nopening groups, then waiting for them …", highlight=False)
        late_ms = _measure(folder, groups, probes, wait)
    percentiles = statistics.quantiles(late_ms, n=100, method="inclusive")
    results = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": attrs.asdict(machine),
        "open_groups": groups,
        "probes": probes,
        "p50_ms": percentiles[49],
        "p99_ms": percentiles[98],
        "longest_ms": max(late_ms),
    }
    console.print(
        f"median {percentiles[49]:.1f} ms, 99th percentile {percentiles[98]:.1f} ms, {max(late_ms):.1f} ms most"
    )
    write_results("due", results)


def _measure(folder: Path, groups: int, probes: int, wait: float) -> list[float]:
    data_set = write_data_sets(folder)["small"].read_bytes()
    service = LaunchedService(configure(folder, SENDERS, timeout=wait))
    try:
        port = service.port(START_S)
        began = time.monotonic()
        _open(port, data_set, range(probes), pause_s=1 / PROBES_PER_S)
        shares = [range(probes + place, probes + groups, SENDERS) for place in range(SENDERS)]
        with ThreadPoolExecutor(SENDERS) as executor:
            list(executor.map(partial(_open, port, data_set), shares))
        if time.monotonic() - began > wait:
            raise TooSlow(f"{groups} groups were not open within {wait:.0f} seconds; measure with a longer --wait")
        service.wait_for("job_queued", wait + probes / PROBES_PER_S + LONGEST_S, times=probes)
        queued = service.logged("job_queued")[:probes]
    finally:
        service.kill()
    return list(_late_ms(folder / "data" / "ledger.sqlite", queued))


def _open(port: int, data_set: bytes, numbers: Sequence[int], pause_s: float = 0) -> None:
    """Send one instance of a new study for each of `numbers`."""
    with Link(port, AE_TITLE) as link:
        longest = min(LONGEST_PDU, link.accepted.maximum_length or LONGEST_PDU)
        for number in numbers:
            message = store_request(data_set, make_uid(2, number), make_uid(3, number), longest)
            link.store(message.rename(make_uid(1, number)))
            time.sleep(pause_s)


def _late_ms(path: Path, queued: Sequence[LogEntry]) -> Iterator[float]:
    ledger = Ledger(f"sqlite:///{path}")
    with ledger.read() as transaction:
        due = {row.job_id: row.created_at for row in transaction.execute(select(jobs.c.job_id, jobs.c.created_at))}
    ledger.close()
    for entry in queued:
        at = datetime.fromisoformat(entry["timestamp"].replace("Z", "+00:00"))
        yield (at - due[entry["job_id"]]).total_seconds() * 1e3


if __name__ == "__main__":
    typer.run(main)
