"""Measure how soon a service with many pending instances accepts associations, and has redelivered all instances.

    .venv/bin/python bench/replay.py [--instances 1000000] [--due]

The benchmark creates a ledger with the pending instances of four AE titles, in studies of 100, then starts
`dicom-adapter run` on this ledger. With `--due` every study is due when the service starts, so that the jobs are
created, too; without it, no study is due. The stored objects are not created: grouping by study or patient never reads
them.
"""

from __future__ import annotations

import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer
from machine import describe, resident_bytes
from pending_rows import STUDY, make_ledger
from results_page import read_results, write_results
from rich.console import Console

from dicom_adapter.net import link, scu
from dicom_adapter.net.address import Address
from dicom_adapter.service.launch import LaunchedService

AE_TITLES = ("LUNG", "LIVER", "BRAIN", "HEART")
MAX_S_TO_ACCEPT, MAX_S_TO_REPLAY, MAX_MB = 5.0, 60.0, 1000.0  # on two cores, for a million instances
LONGEST_S = 600.0  # longest wait for an event of the service


@attrs.frozen(kw_only=True)
class Measured:
    """The results of one start."""

    pending: int
    due: bool
    accepting_s: float  # from the start of the process to the first C-ECHO response
    # from the start of the process until the last lane has redelivered its instances; with `--due`, until the last job
    # is queued
    replayed_s: float
    memory_mb: float  # peak of all processes of the service together


def main(
    pending: Annotated[int, typer.Option("--instances", min=1000, max=10_000_000, help="Pending instances.")] = 10**6,
    due: Annotated[bool, typer.Option("--due", help="Every study is due at the start.")] = False,
) -> None:
    """Measure one start, print the results, and add them to bench/results/replay.json."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-replay-") as made:
        folder = Path(made)
        machine = describe(folder)
        console.print(f"{machine}\nmaking {pending} rows …", highlight=False)
        make_ledger(folder / "data", pending, AE_TITLES, age=timedelta(days=1 if due else 0))
        measured = _measure(folder, pending, due)
    console.print(measured, highlight=False)
    _write({"machine": attrs.asdict(machine), **attrs.asdict(measured)})


def _measure(folder: Path, pending: int, due: bool) -> Measured:
    configuration = folder / "adapter.toml"
    configuration.write_text(_configuration(), encoding="utf-8")
    link.silence_pynetdicom()
    began = time.monotonic()
    service = LaunchedService(configuration)
    ended, sizes = threading.Event(), [0]
    watch = threading.Thread(target=_watch_memory, args=(service, ended, sizes))
    try:
        scu.echo(Address(ae_title="LUNG", host="127.0.0.1", port=service.port(LONGEST_S)), "BENCH")
        accepting_s = time.monotonic() - began
        watch.start()
        for ae_title in AE_TITLES:
            service.wait_for("lane_caught_up", LONGEST_S, ae_title=ae_title)
        if due:
            service.wait_for("job_queued", LONGEST_S, times=-(-pending // STUDY))
        replayed_s = time.monotonic() - began
    finally:
        ended.set()
        service.kill()
    return Measured(
        pending=pending, due=due, accepting_s=accepting_s, replayed_s=replayed_s, memory_mb=max(sizes) / 1e6
    )


def _watch_memory(service: LaunchedService, ended: threading.Event, sizes: list[int]) -> None:
    while not ended.wait(0.2):
        sizes.append(sum(resident_bytes(pid, "VmRSS") for pid in service.pids()))


def _configuration() -> str:
    lanes = "\n".join(
        f'[ae-titles.{name}.settings]\ngroup-by = "{group_by}"\ntimeout = 3600\npipeline-one = "p1"'
        for name, group_by in zip(AE_TITLES, ("study", "study", "study", "patient"), strict=True)
    )
    # There is no platform: only the redelivery is measured, and jobs wait as if the platform were down.
    return f"""
[dicom]
port = 0
bind = "127.0.0.1"
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[submitters.platform]
type = "clara-rest"
endpoint = "http://127.0.0.1:9"
{lanes}
"""


def _write(measured: dict[str, Any]) -> None:
    found = read_results("replay")
    found["due" if measured["due"] else "waiting"] = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **measured,
        "meets_limits": measured["accepting_s"] <= MAX_S_TO_ACCEPT
        and measured["replayed_s"] <= MAX_S_TO_REPLAY
        and measured["memory_mb"] < MAX_MB,
    }
    write_results("replay", found)


if __name__ == "__main__":
    typer.run(main)
