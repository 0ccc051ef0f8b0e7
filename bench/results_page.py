"""The page of figures, created from all files in bench/results after each benchmark.

`publish` writes the page to docs/performance.md, between two markers, and the plot to a file next to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import receive_plot
from machine import Machine
from receive_report import (
    ADAPTER,
    BUSY,
    THROUGHPUT,
    Results,
    Verdict,
    at_least,
    at_most,
    from_json,
    number,
    ratio_verdicts,
    verdicts,
)
from receive_values import WORKLOADS

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- figures: written by make bench -->\n", "<!-- end of the figures -->\n"
RATIOS = {
    BUSY: "with a busy plugin ÷ without one",
    "orthanc": "÷ Orthanc",
    "pynetdicom": "÷ pynetdicom storescp",
    "storescp-b": "÷ DCMTK storescp +B",
}
# limits of the other benchmarks
MAX_DUE_MS = 30.0  # from the due time of a group to its job
FLAT = (0.9, 1.1)  # with many pending instances: minimum ratio of the rates, maximum ratio of the CPU times
MIN_KEPT = 0.7  # rate at an AE title of the cache, divided by the rate at one with grouping
MAX_SEARCH_MS, MAX_COMPOSE_S = 50.0, 1.0  # in the cache
MAX_S_TO_ACCEPT, MAX_S_TO_REPLAY = 5.0, 60.0  # from a start with many pending instances
MAX_LOOK_UP_MS = 300.0  # CPU time of a command
MAX_PAGE_MS = 200.0  # from the request for a page of the dashboard until it is read, 95th percentile
MIN_WATCHED = 0.9  # rate while dashboards are open, divided by the rate without them

LEGEND = """\
*large* and *small* are the two sizes of data sets; the number of senders follows. *each* has 8 senders, small data
sets, and a new association for each instance. *CPU* is the CPU time for each instance, with 8 senders. *(syncs)* marks
receivers that have the instance on disk before they respond. *memory* is the peak of all processes of a receiver
together. The number in parentheses, if it was measured, counts shared pages once (PSS)."""
HELD_LEGEND = """\
*held open* is the number of idle associations for the columns on its right. If it is 0, these columns were not
measured: the receiver serves one association at a time, or a busy plugin would hide the cost of idle associations."""
CPU = "CPU, ms (large / small)"
MEMORY = "memory, MB (PSS)"

Values = Mapping[str, Any]


def read_results(name: str) -> dict[str, Any]:
    """Return the last results of a benchmark, or an empty mapping if it was not run."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_results(name: str, values: Values) -> None:
    """Save the results of a benchmark and publish them with the last results of the other benchmarks."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    publish()


def publish() -> None:
    """Write the page and the plot from bench/results. Do nothing if receiving was not measured."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    if "receiving" not in found:
        return
    receiving = found["receiving"]
    (DOCS / "performance.svg").write_text(receive_plot.draw(from_json(receiving), receiving["names"]), encoding="utf-8")
    text = figures(found)
    (RESULTS / "receiving.md").write_text(f"# Receiving\n\n{text}", encoding="utf-8")
    page = DOCS / "performance.md"
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    block = f"\n![Instances per second](performance.svg)\n\n{text}\n"
    page.write_text(f"{before}{BEGIN}{block}{END}{rest.split(END)[1]}", encoding="utf-8")


def figures(found: Mapping[str, Values]) -> str:
    """Return all figures as Markdown, from the results by name."""
    receiving = found["receiving"]
    results = from_json(receiving)
    sections = [
        _setting(receiving, results),
        LEGEND,
        _table(("instances per second", *_headings(), "each", CPU, MEMORY), _rates(results, receiving)),
        "### Targets",
        "*A ÷ B* is the figure of A divided by the figure of B.",
        _table(("instances per second", *_headings()), _ratios(results)),
        _table(("", "measured", "limit", "met"), map(_verdict, (*verdicts(results), *_others(found)))),
        "### Associations",
        HELD_LEGEND,
        _table(ASSOCIATION_HEADINGS, _associations(results, receiving["names"])),
    ]
    return "\n\n".join(sections) + "\n"


def _setting(receiving: Values, results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in receiving["versions"].items())
    sender_us = results.rate(ADAPTER, "small-1", "sender_cpu_us")
    left_out = [f"Left out: {name}." for name in receiving["left_out"]]
    return " ".join(
        (
            f"Measured at {receiving['measured_at']} on {Machine(**receiving['machine'])}; {versions};",
            f"medians of {receiving['rounds']} rounds.",
            f"The sender used {number(sender_us)} µs of CPU for each small instance.",
            *left_out,
        )
    )


def _headings() -> list[str]:
    names = {workload.key: workload.name for workload in WORKLOADS}
    return [names[key] for key in THROUGHPUT]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (headings, ["---"] * len(headings), *rows))


def _rates(results: Results, receiving: Values) -> Iterator[Sequence[str]]:
    for receiver in results.rates:
        cpu = [number(results.rate(receiver, workload, "cpu_ms")) for workload in ("large-8", "small-8")]
        rates = [number(results.rate(receiver, workload)) for workload in (*THROUGHPUT, "each")]
        syncs = " (syncs)" if receiver in receiving["syncs"] else ""
        proportional = results.proportional_mb(receiver)
        memory = number(results.peak_mb(receiver)) + ("" if proportional is None else f" ({number(proportional)})")
        yield (f"{receiving['names'][receiver]}{syncs}", *rates, " / ".join(cpu), memory)


def _ratios(results: Results) -> Iterator[Sequence[str]]:
    for product, found in ratio_verdicts(results).items():
        cells = [
            f"{number(verdict.value)} ({verdict.limit_text()}){'' if verdict.is_met else ' **no**'}"
            for verdict in found
        ]
        yield (f"dicom-adapter {RATIOS[product]}", *cells)


def _verdict(verdict: Verdict) -> Sequence[str]:
    return verdict.what, verdict.text(), verdict.limit_text(), "yes" if verdict.is_met else "**no**"


def _others(found: Mapping[str, Values]) -> Iterator[Verdict]:
    """Yield the rows of the other benchmarks that were run."""
    if due := found.get("due"):
        what = f"Delay from the due time of a group until its job, with {due['open_groups']:,} groups, 99th percentile"
        yield at_most(due["p99_ms"], MAX_DUE_MS, what, " ms")
    if pending := found.get("pending"):
        conditions = f"with {pending['instances']:,} pending ÷ with none"
        yield at_least(pending["rate_ratio"], FLAT[0], f"Instances per second {conditions}")
        yield at_most(pending["cpu_ratio"], FLAT[1], f"CPU time for an instance {conditions}")
    if replay := found.get("replay", {}).get("waiting"):
        load = f"with {replay['pending']:,} pending instances"
        accepting = f"Time from the start until associations are accepted, {load}"
        replayed = f"Time from the start until everything is replayed, {load}"
        yield at_most(replay["accepting_s"], MAX_S_TO_ACCEPT, accepting, " s")
        yield at_most(replay["replayed_s"], MAX_S_TO_REPLAY, replayed, " s")
    if look_up := found.get("look_up"):
        rows = f"with {look_up['instances']:,} instances and {look_up['jobs']:,} jobs"
        longest = max(look_up["cpu_ms"].values())
        yield at_most(longest, MAX_LOOK_UP_MS, f"Longest CPU time of a look-up {rows}", " ms")
    if dashboard := found.get("dashboard"):
        rows = f"with {dashboard['instances']:,} instances and {dashboard['jobs']:,} jobs"
        slowest = max(page["p95"] for page in dashboard["pages_ms"].values())
        what = f"A page of the dashboard {rows}, 95th percentile of the slowest page"
        yield at_most(slowest, MAX_PAGE_MS, what, " ms")
        open_pages = f"with {dashboard['dashboards']} open dashboards ÷ with none"
        yield at_least(dashboard["receiving"]["ratio"], MIN_WATCHED, f"Instances per second {open_pages}")
    if cache := found.get("cache"):
        yield from _cache(cache)


def _cache(cache: Values) -> Iterator[Verdict]:
    """Yield the rows of the cache benchmark."""
    ratios = [rates["ratio"] for rates in cache["received_per_second"].values()]
    kept = f"with {cache['instances']:,} kept instances"
    yield at_least(min(ratios), MIN_KEPT, "Instances per second: `cache` ÷ `aetitle`, lowest ratio of all workloads")
    yield at_most(cache["search_ms"]["p99"], MAX_SEARCH_MS, f"Search {kept}, 99th percentile", " ms")
    what = f"Longest time to compose a job of 10,000 instances, {kept}"
    yield at_most(max(cache["compose_10000_s"]), MAX_COMPOSE_S, what, " s")


ASSOCIATION_HEADINGS = (
    "receiver",
    "time to accept, ms",
    "CPU to accept and release, ms",
    "C-ECHO, ms",
    "held open",
    "memory of each, kB",
    "CPU of all, % of a core",
    "time to accept another, ms",
)


def _associations(results: Results, names: Mapping[str, str]) -> Iterator[Sequence[str]]:
    fields = ("accept_ms", "cycle_cpu_ms", "echo_ms", "held", "memory_kb", "idle_cpu_percent", "another_ms")
    for receiver in results.associations:
        values = [results.association(receiver, field) for field in fields]
        yield (names[receiver], *("–" if value is None else number(value) for value in values))
