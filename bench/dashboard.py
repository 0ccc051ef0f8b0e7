"""Measure the dashboard with the ledger of a busy month: how soon pages answer, and what open pages cost the receiver.

    .venv/bin/python bench/dashboard.py [--instances 1000000] [--jobs 50000] [--requests 60] [--dashboards 50]

The service runs with a ledger of `large_ledger.py`. Each page is requested one time after the other on a loopback port.
Then eight senders send small instances, alternately without open dashboards and with many. Each dashboard reads the
live updates of the overview, as a browser does.
"""

from __future__ import annotations

import http.client
import re
import selectors
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer
from large_ledger import AE_TITLES, Size, configuration_of, make_ledger
from machine import describe
from receive_instances import write_data_sets
from receive_runs import per_second, send_all
from receive_sender import SenderTask
from receive_values import AE_TITLE, Running
from receiving import LONGEST_PDU
from results_page import write_results
from rich.console import Console
from rich.table import Table

from dicom_adapter.service.launch import LaunchedService

HOST = "127.0.0.1"
PATIENCE_S = 300.0  # longest wait for an event of the service
SENDERS = 8
LIMIT_MS = 200  # of the 95th percentile of a page
MIN_RATIO = 0.9  # of the rate of receiving with open dashboards to the rate without
PAGES = (
    "/",
    "/jobs",
    "/jobs?state=held",
    "/jobs?state=finished",
    f"/jobs?ae-title={AE_TITLES[0]}",
    f"/jobs?ae-title={AE_TITLES[0]}&state=faulted",
    "/jobs?before=20000",
    "/studies",
    "/quarantine",
    f"/quarantine?ae-title={AE_TITLES[0]}",
    "/senders",
    "/events",
    "/events?kind=instance_",
    f"/events?ae-title={AE_TITLES[0]}",
    "/configuration",
    "/plugins",
    "/sign-in",
    "/health",
    "/api/jobs",
    "/api/jobs?state=faulted",
    "/api/jobs?state=cancelled",
    "/api/instances",
)
# Pages whose addresses are links of other pages: a name, the page with the link, and the link.
LINKED = (
    ("/jobs/<id>", "/jobs?state=finished", re.compile(rb'href="(/jobs/[0-9a-f]{32})"')),
    ("/studies/<uid>", "/jobs?state=finished", re.compile(rb'href="(/studies/[0-9.]+)"')),
)
CONFIGURATION = f"""\
[http]
port = 0
[ae-titles.{AE_TITLE}.settings]
timeout = 864000
pipeline-one = "p1"
"""


def main(
    instances: Annotated[int, typer.Option(min=1000, max=10_000_000, help="Instances.")] = Size().instances,
    jobs: Annotated[int, typer.Option(min=100, max=1_000_000, help="Jobs.")] = Size().jobs,
    requests: Annotated[int, typer.Option(min=20, max=10_000, help="Requests of each page.")] = 60,
    dashboards: Annotated[int, typer.Option(min=1, max=90, help="Open dashboards while instances arrive.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Rounds of receiving.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Duration of sending in each run.")] = 4.0,
) -> None:
    """Measure, print, and write bench/results/dashboard.json."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-dashboard-") as made:
        folder = Path(made)
        machine = describe(folder)
        console.print(f"{machine}\nmaking {instances} instances and {jobs} jobs …", highlight=False)
        make_ledger(folder / "data", Size(instances=instances, jobs=jobs))
        data_set = write_data_sets(folder)["small"]
        with running(folder) as (service, port):
            pages = measure_pages(port, requests)
            _show_pages(console, pages)
            rates = measure_receiving(service, port, data_set, dashboards, rounds, seconds)
            _show_rates(console, rates, dashboards)
    found = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": attrs.asdict(machine),
        "instances": instances,
        "jobs": jobs,
        "requests": requests,
        "pages_ms": pages,
        "dashboards": dashboards,
        "receiving": rates,
    }
    write_results("dashboard", found)


def _show_pages(console: Console, pages: Mapping[str, Mapping[str, float]]) -> None:
    table = Table("page", "median, ms", f"95th percentile, ms (≤ {LIMIT_MS})")
    for name, figures in pages.items():
        table.add_row(
            name, f"{figures['p50']:.1f}", f"{figures['p95']:.1f}{'' if figures['p95'] <= LIMIT_MS else ' no'}"
        )
    console.print(table)


def _show_rates(console: Console, rates: Mapping[str, Any], dashboards: int) -> None:
    table = Table("instances per second", "alone", f"with {dashboards} dashboards", f"ratio (≥ {MIN_RATIO})", "rounds")
    rounds = ", ".join(f"{ratio:.2f}" for ratio in rates["ratios"])
    figures = [f"{rates['per_second_alone']:,}", f"{rates['per_second_watched']:,}", f"{rates['ratio']:.2f}"]
    table.add_row("small, 8 senders", *figures, rounds)
    console.print(table)


@contextmanager
def running(folder: Path) -> Iterator[tuple[LaunchedService, int]]:
    """Run the service with the ledger in `folder`. Yield the service and the port of its HTTP server."""
    configuration = folder / "dicom-adapter.toml"
    configuration.write_text(configuration_of(CONFIGURATION), encoding="utf-8")
    service = LaunchedService(configuration, "--new")  # the stored objects are missing
    try:
        port = int(service.wait_for("http_listening", PATIENCE_S)["port"])
        for ae_title in AE_TITLES:
            service.wait_for("lane_caught_up", PATIENCE_S, ae_title=ae_title)
        service.port(PATIENCE_S)
        yield service, port
    finally:
        service.kill()


# --- pages ------------------------------------------------------------------------------------------------------------


def measure_pages(port: int, requests: int) -> dict[str, dict[str, float]]:
    """Return the median and the 95th percentile of the milliseconds until each page was read."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
    addresses = {page: page for page in PAGES}
    for name, page, link in LINKED:
        match = link.search(_read(connection, page))
        assert match is not None, page
        addresses[name] = match[1].decode()
    found = {name: _percentiles(connection, address, requests) for name, address in addresses.items()}
    connection.close()
    return found


def _percentiles(connection: http.client.HTTPConnection, address: str, requests: int) -> dict[str, float]:
    milliseconds = []
    for _request in range(requests):
        began = time.perf_counter()
        _read(connection, address)
        milliseconds.append((time.perf_counter() - began) * 1e3)
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return {"p50": round(cuts[49], 1), "p95": round(cuts[94], 1)}


def _read(connection: http.client.HTTPConnection, address: str) -> bytes:
    connection.request("GET", address, headers={"Accept": "text/html"})
    response = connection.getresponse()
    content = response.read()
    # The health is red, because the stored objects of the ledger are missing.
    if response.status != (503 if address == "/health" else 200):
        raise RuntimeError(f"{address}: status {response.status}")
    return content


# --- receiving --------------------------------------------------------------------------------------------------------


def measure_receiving(
    service: LaunchedService, port: int, data_set: Path, dashboards: int, rounds: int, seconds: float
) -> Mapping[str, Any]:
    """Return the instances per second without and with open dashboards, and the median ratio of the rounds."""
    receiver = Running(port=service.port(), pid=0)  # the CPU time is not measured
    task = SenderTask(
        port=0,
        called=AE_TITLE,
        data_set=str(data_set),
        number=0,
        count=10**9,  # no limit: the time ends the run
        seconds=seconds,
        has_association_per_instance=False,
        longest_pdu=LONGEST_PDU,
    )
    send_all(receiver, [task] * SENDERS)  # warm-up
    rates: dict[int, list[float]] = {0: [], dashboards: []}
    for number in range(rounds):
        for count in (0, dashboards) if number % 2 == 0 else (dashboards, 0):
            with opened(port, count):
                rates[count].append(per_second(send_all(receiver, [task] * SENDERS)))
    ratios = [watched / alone for alone, watched in zip(rates[0], rates[dashboards], strict=True)]
    return {
        "per_second_alone": round(statistics.median(rates[0])),
        "per_second_watched": round(statistics.median(rates[dashboards])),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


@contextmanager
def opened(port: int, count: int) -> Iterator[None]:
    """Keep the live updates of `count` overviews open. Each must have been updated before the block begins."""
    request = f"GET /live/overview HTTP/1.1\r\nHost: {HOST}:{port}\r\nAccept: text/event-stream\r\n\r\n".encode()
    sockets = [socket.create_connection((HOST, port)) for _dashboard in range(count)]
    ended, ready = threading.Event(), threading.Event()
    for one in sockets:
        one.sendall(request)
    reader = threading.Thread(target=_drain, args=(sockets, ended, ready))
    reader.start()
    try:
        if not ready.wait(PATIENCE_S):
            raise RuntimeError("a dashboard was not updated")
        yield
    finally:
        ended.set()
        reader.join()
        for one in sockets:
            one.close()


def _drain(sockets: Sequence[socket.socket], ended: threading.Event, ready: threading.Event) -> None:
    """Read and discard the updates. Set `ready` when all have arrived for the first time."""
    waiting = dict.fromkeys(sockets, b"")
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ, each)
        while not ended.is_set():
            if not waiting:
                ready.set()
                if not sockets:
                    ended.wait()
            for key, _events in selector.select(0.2):
                one: socket.socket = key.data
                content = one.recv(1 << 18)
                if not content:
                    raise RuntimeError("the service has closed a stream")
                if one in waiting:
                    waiting[one] += content
                    if b"data: " in waiting[one]:
                        del waiting[one]


if __name__ == "__main__":
    typer.run(main)
