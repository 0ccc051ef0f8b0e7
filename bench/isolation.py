"""Measure the cost of misbehaving plugins for a healthy AE title.

    .venv/bin/python bench/isolation.py [--rounds 4] [--instances 2000] [--paced 60]

Each round measures two services, one after the other: one with a healthy plugin alone, and one that also has a
crashing, a hanging, a leaking and an outdated plugin, which have already misbehaved. The healthy AE title receives
instances in one association, as fast as possible (throughput), and then single instances, ten per second, each of which
becomes a job at once. The latency is the time from arrival to submission, both from the ledger.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import attrs
import typer
from attrs import frozen
from isolation_plugins import AE_TITLES, BAD, HEALTHY, write_plugins
from machine import describe
from receive_adapter import importable
from receive_instances import write_data_sets
from receive_link import Link
from receive_pdus import make_uid, store_request
from receiving import LONGEST_PDU
from results_page import write_results
from rich.console import Console
from sqlalchemy import select

from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.schema import instances, job_instances, jobs
from dicom_adapter.service.launch import LaunchedService

PAUSE_S = 0.1  # between two of the single instances
TO_EACH_BAD_ONE = 10  # number of instances sent to each AE title of a bad plugin
PATIENCE_S = 120.0  # longest wait for an event of the service
CONFIGURATION = """\
[dicom]
port = 0
bind = "127.0.0.1"

[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.platform]
type = "fake"

[ae-titles.GOOD]
processor = "healthy"
settings = {{ size = {size} }}

[ae-titles.PACED]
processor = "healthy"
"""


@frozen(kw_only=True)
class Run:
    """The results of one service in one round."""

    per_second: float  # instances received in one association
    latencies_ms: Sequence[float]  # of the single instances, from arrival to submission

    @property
    def median_ms(self) -> float:
        return statistics.median(self.latencies_ms)


def main(
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Rounds; each measures both services.")] = 4,
    count: Annotated[
        int, typer.Option("--instances", min=10, max=100_000, help="Instances sent as fast as possible.")
    ] = 2000,
    paced: Annotated[int, typer.Option(min=10, max=10_000, help="Instances sent one by one.")] = 60,
) -> None:
    """Measure, print, and write bench/results/isolation.json."""
    console = Console()
    runs: dict[bool, list[Run]] = {False: [], True: []}  # by whether the service has the bad plugins
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-isolation-") as made:
        machine = describe(Path(made))
        console.print(str(machine), highlight=False)
        data_set = write_data_sets(Path(made))["small"].read_bytes()
        for number in range(rounds):
            for has_bad in (False, True) if number % 2 == 0 else (True, False):
                folder = Path(made, f"{number}-{has_bad}")
                folder.mkdir()
                runs[has_bad].append(_measure(folder, data_set, count, paced, has_bad=has_bad))
                console.print(f"{'with bad plugins' if has_bad else 'alone':20} {_line(runs[has_bad][-1])}")
    figures = _summary(runs)
    console.print(figures)
    measured_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    found = {
        "measured_at": measured_at,
        "machine": attrs.asdict(machine),
        "instances": count,
        "paced": paced,
        **figures,
    }
    write_results("isolation", found)


def _line(run: Run) -> str:
    return f"{run.per_second:7.0f} instances/s, median latency {run.median_ms:6.1f} ms"


def _summary(runs: dict[bool, list[Run]]) -> dict[str, object]:
    """Return the medians of all rounds, and the ratios of the medians with and without the bad plugins."""
    rates = {has_bad: statistics.median(run.per_second for run in found) for has_bad, found in runs.items()}
    latencies = {has_bad: statistics.median(run.median_ms for run in found) for has_bad, found in runs.items()}
    return {
        "alone": {"per_second": rates[False], "median_latency_ms": latencies[False]},
        "beside_bad_plugins": {"per_second": rates[True], "median_latency_ms": latencies[True]},
        "throughput_ratio": rates[True] / rates[False],
        "latency_ratio": latencies[True] / latencies[False],
        "rounds": {
            name: [{"per_second": run.per_second, "median_latency_ms": run.median_ms} for run in runs[has_bad]]
            for name, has_bad in (("alone", False), ("beside_bad_plugins", True))
        },
    }


def _measure(folder: Path, data_set: bytes, count: int, paced: int, *, has_bad: bool) -> Run:
    site, configuration = folder / "site", folder / "bench.toml"
    site.mkdir()
    write_plugins(site, {"healthy": HEALTHY, **(BAD if has_bad else {})})
    text = CONFIGURATION.format(size=count) + (AE_TITLES if has_bad else "")
    configuration.write_text(text, encoding="utf-8")
    with importable(site):
        service = LaunchedService(configuration)
    try:
        port = service.port(PATIENCE_S)
        if has_bad:
            _provoke(service, port, data_set)
        began = time.monotonic()
        _send(port, "GOOD", data_set, range(1, count + 1))
        per_second = count / (time.monotonic() - began)
        service.wait_for("job_submitted", PATIENCE_S, ae_title="GOOD")
        _send(port, "PACED", data_set, range(count + 1, count + paced + 1), pause_s=PAUSE_S)
        service.wait_for("job_submitted", PATIENCE_S, times=paced, ae_title="PACED")
    finally:
        service.kill()
    return Run(per_second=per_second, latencies_ms=list(_latencies_ms(folder / "data" / "ledger.sqlite")))


def _provoke(service: LaunchedService, port: int, data_set: bytes) -> None:
    """Make the bad plugins misbehave, and wait until all have misbehaved."""
    for place, ae_title in enumerate(("CRASHES", "HANGS", "LEAKS"), start=1):
        first = 1_000_000 * place
        _send(port, ae_title, data_set, range(first, first + TO_EACH_BAD_ONE))
    service.wait_for("processor_failed", PATIENCE_S, ae_title="CRASHES")
    service.wait_for("part_degraded", PATIENCE_S, part="threads")
    service.wait_for("part_hangs", PATIENCE_S, part="AE title HANGS")


def _send(port: int, ae_title: str, data_set: bytes, numbers: Sequence[int], pause_s: float = 0) -> None:
    """Send one instance for each of `numbers` in one association."""
    with Link(port, ae_title) as link:
        longest = min(LONGEST_PDU, link.accepted.maximum_length or LONGEST_PDU)
        message = store_request(data_set, make_uid(2, numbers[0]), make_uid(3, numbers[0]), longest)
        for number in numbers:
            link.store(message.rename(make_uid(1, number)))
            time.sleep(pause_s)


def _latencies_ms(path: Path) -> Iterator[float]:
    ledger = Ledger(f"sqlite:///{path}")
    query = (
        select(instances.c.received_at, jobs.c.changed_at)
        .join(job_instances, job_instances.c.instance_id == instances.c.instance_id)
        .join(jobs, jobs.c.job_number == job_instances.c.job_number)
        .where(jobs.c.ae_title == "PACED", jobs.c.state == "submitted")
    )
    with ledger.read() as transaction:
        for received_at, submitted_at in transaction.execute(query):
            yield (submitted_at - received_at).total_seconds() * 1e3
    ledger.close()


if __name__ == "__main__":
    typer.run(main)
