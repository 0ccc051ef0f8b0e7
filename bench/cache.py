"""Measure the cache: searches among 100,000 instances in 1,000 studies, a job of 10,000 instances, and receiving.

    .venv/bin/python bench/cache.py [--studies 1000] [--searches 1000] [--rounds 3] [--folder PATH]

Searching and composing include everything except the network between machines: HTTP requests to the adapter's own
server on a loopback port, index and ledger on disk with `durability = "fsync"`. The instances come from rows that were
written to the ledger in advance. The instances of a study share one stored file, which composing does not read.
Eviction is one turn of the lane: it deletes 100 studies with 10,000 instances in all, while three jobs that are not
submitted contain the same 10,000 instances of other studies.

Receiving is measured as in receiving.py, alternately at an AE title of the cache and at one with grouping.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
from attrs import evolve
from machine import describe
from receive_adapter import adapter as run_adapter
from receive_instances import write_data_sets
from receive_receivers import RECEIVERS
from receive_runs import run_workload
from receive_values import WORKLOADS
from receiving import LONGEST_PDU
from results_page import write_results

from dicom_adapter import InstanceStorageInfo
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.ledger import instances
from dicom_adapter.runtime.parts import lane_part
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.http import HttpServer, make_app
from dicom_adapter.web.http.health import Health
from dicom_adapter_cache.operations import Cache
from dicom_adapter_cache.rest import handlers

CONFIGURATION = """
[http]
port = 0
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[submitters.platform]
type = "fake"
[ae-titles.CACHE]
processor = "cache"
[ae-titles.CACHE.settings]
settle = 0
"""
INSTANCES = 100  # number in each study
MODALITIES = ("CT", "MR", "CR")
QUERIES = (  # {0}: a number of a study or patient; {1}: 1 to 12
    "patientId=P-00{0:03}",
    "patientName=name-{0}*&modality=CT",
    "studyDate=2025{1:02}01-2025{1:02}28",
    "studyDescription=*part%20{1}*&modality=MR",
    "accessionNumber=A{0:05}",
    "limit=100&offset={0}",
)
EVICTED = 100  # number of evicted studies
SECONDS = 2.0  # approximate duration of sending in each run
GROUPING = RECEIVERS[0]  # the adapter with the processor `aetitle`
KEEPING = evolve(GROUPING, key="cache", name="dicom-adapter, cache", start=partial(run_adapter, keeps=True))


class Stepping:
    """A lane handle that runs the turns of the lane in the calling thread, without concurrent work."""

    def __init__(self, adapter: Adapter) -> None:
        self._handle = adapter.host.handles["CACHE"]
        self._step = adapter.host.parts()[lane_part("CACHE")].step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def ask(self, request: Callable[[Any], Any]) -> Future[Any]:
        future = self._handle.ask(request)
        while not future.done():
            self._step()
        return future


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="studies in the cache")
    parser.add_argument("--searches", type=int, default=1000, help="search requests")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of receiving")
    parser.add_argument("--folder", type=Path, help="folder of the files (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        about = {
            "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": attrs.asdict(describe(folder)),
        }
        received = receive(folder, options.rounds)
        figures = {**about, **received, **measure(folder / "cache", options.studies, options.searches)}
    write_results("cache", figures)
    print(json.dumps(figures, indent=2))  # noqa: T201 - a program for a terminal


def receive(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure the instances per second at an AE title of the cache and at an AE title with grouping.

    Returns medians of all rounds.
    """
    data_sets = write_data_sets(folder)
    found: dict[str, Any] = {}
    for workload in WORKLOADS:
        rates: dict[str, list[float]] = {GROUPING.key: [], KEEPING.key: []}
        for number in range(rounds):
            for receiver in (GROUPING, KEEPING):
                where = folder / f"{workload.key}-{number}-{receiver.key}"
                rate = run_workload(receiver, workload, where, data_sets[workload.size], SECONDS, LONGEST_PDU)
                rates[receiver.key].append(rate.rate)
        ratios = [kept / grouped for grouped, kept in zip(*rates.values(), strict=True)]
        found[workload.key] = {
            "aetitle": round(statistics.median(rates[GROUPING.key])),
            "cache": round(statistics.median(rates[KEEPING.key])),
            "ratio": round(statistics.median(ratios), 3),
        }
    return {"rounds": rounds, "received_per_second": found}


def measure(folder: Path, studies: int, searches: int) -> dict[str, Any]:
    """Fill a cache, send requests to it, and return the figures."""
    folder.mkdir()
    adapter = Adapter(folder, CONFIGURATION)
    fill(adapter, studies)
    began = time.perf_counter()
    adapter.host.run_until_idle()
    indexed = time.perf_counter() - began
    adapter.clock.advance(60)
    assert adapter.config.http is not None
    lane = Stepping(adapter)
    cache = Cache({"CACHE": lane})  # attributes that `Stepping` lacks are those of the handle
    green = Health(health="green", service="running", problems=[])
    server = HttpServer(
        make_app({"cache": handlers(cache)}, lambda: green, Access(adapter.config.http), "bench"), adapter.config.http
    )
    server.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server._port}/cache", timeout=120) as client:
            return {
                "instances": studies * INSTANCES,
                "studies": studies,
                "instances_indexed_per_second": round(studies * INSTANCES / indexed),
                "search_ms": search(client, studies, searches),
                "compose_10000_s": compose(client),
                "evict_10000_s": evict(client, lane),
            }
    finally:
        server.stop()
        adapter.close()


def fill(adapter: Adapter, studies: int) -> None:
    """Enter pending instances into the ledger, as if they had been received."""
    for number in range(studies):
        first = make_instance(
            study_uid=f"1.{number}",
            modality=MODALITIES[number % 3],
            patient_id=f"P-{number // 2:05}",
            patient_name=f"Name-{number // 2}^Given",
            accession_number=f"A{number:05}",
            rows=4,
            columns=4,
            StudyDate=f"2025{number % 12 + 1:02}{number % 28 + 1:02}",
            StudyDescription=f"Body part {number % 12}",
        )
        stored = adapter._store.keep(make_request(first, "CACHE", "BENCH", "0" * 32), encode(first)).instance
        assert stored is not None
        with adapter.ledger.write() as transaction:
            for place in range(1, INSTANCES):
                instances.insert(transaction, another(stored, place))


def another(instance: InstanceStorageInfo, place: int) -> InstanceStorageInfo:
    return evolve(instance, sop_instance_uid=f"{instance.study_instance_uid}.9.{place}")


def search(client: httpx.Client, studies: int, searches: int) -> dict[str, float]:
    """Return the milliseconds from request to response of different filtered searches."""
    milliseconds = []
    for number in range(searches):
        query = QUERIES[number % len(QUERIES)].format(number * 7 % studies // 2, number % 12 + 1)
        began = time.perf_counter()
        answer = client.get(f"/studies?{query}")
        milliseconds.append((time.perf_counter() - began) * 1000)
        answer.raise_for_status()
    cuts = statistics.quantiles(milliseconds, n=100)
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "most": round(max(milliseconds), 2)}


def compose(client: httpx.Client) -> list[float]:
    """Return the seconds to compose a job of 10,000 instances, three times."""
    order = {"pipeline": "p", "name": "large", "studies": [f"1.{number}" for number in range(10_000 // INSTANCES)]}
    seconds = []
    for _try in range(3):
        began = time.perf_counter()
        answer = client.post("/jobs", json=order)
        seconds.append(round(time.perf_counter() - began, 3))
        assert answer.json()["instances"] == len(order["studies"]) * INSTANCES, answer.text
    return seconds


def evict(client: httpx.Client, lane: Stepping) -> list[float]:
    """Return the seconds to evict 100 studies of 10,000 instances for lack of space, three times."""
    newest = client.get("/studies?limit=1000").json()["items"]
    wanted = int(sum(study["sizeBytes"] for study in newest) / len(newest) * EVICTED)
    seconds = []
    for _try in range(3):
        before = client.get("/studies?limit=1").json()["total"]
        began = time.perf_counter()
        lane.ask(lambda cache: cache.free_space(wanted)).result()
        seconds.append(round(time.perf_counter() - began, 3))
        gone = before - client.get("/studies?limit=1").json()["total"]
        assert abs(gone - EVICTED) <= EVICTED // 20, gone  # studies have slightly different sizes
    return seconds


if __name__ == "__main__":
    main()
