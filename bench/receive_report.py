"""The figures of all rounds, and whether they reach what they are to reach. Pure: no measuring, no files."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen
from receive_values import Associations, Rate

ADAPTER, BUSY, FORK = "adapter", "adapter-busy", "storescp-fork"
THROUGHPUT = ("large-1", "large-8", "small-1", "small-8")  # workloads, in the order of the limits below
LEAST_RATIOS: Mapping[str, tuple[float, ...]] = {
    "orthanc": (3.0, 3.0, 3.5, 9.0),
    "pynetdicom": (5.0, 12.0, 7.0, 25.0),
    "storescp-b": (0.6, 1.2, 0.3, 1.0),
}
LEAST_SHARE_WITH_BUSY_PLUGIN = 0.5
MOST_RESIDENT_MB = 150.0
MOST_KB_PER_ASSOCIATION = 500.0
MOST_CYCLE_CPU_MS = 1.0
LEAST_ASSOCIATIONS_PER_S = 300.0
MOST_IDLE_PERCENT = 1.0  # of one core: less cannot be told from what else the receiver does
MOST_MS_FOR_ANOTHER = 50.0


@frozen(kw_only=True)
class Results:
    """What was measured."""

    rates: Mapping[str, Mapping[str, Sequence[Rate]]]  # by receiver, by workload, a run for each round
    associations: Mapping[str, Sequence[Associations]]  # by receiver

    def rate(self, receiver: str, workload: str, field: str = "rate") -> float:
        """The median of all rounds."""
        values: list[float] = [getattr(run, field) for run in self.rates[receiver][workload]]
        return statistics.median(values)

    def ratio(self, ours: str, theirs: str, workload: str) -> float:
        """The median of the rounds' ratios: neighbours in time, so that what else the machine does hits both."""
        runs = zip(self.rates[ours][workload], self.rates[theirs][workload], strict=True)
        return statistics.median(our.rate / their.rate for our, their in runs)

    def peak_mb(self, receiver: str) -> float:
        """The worst run's."""
        return max(run.peak_mb for runs in self.rates[receiver].values() for run in runs)

    def association(self, receiver: str, field: str) -> float | None:
        """The median of all rounds; None: it cannot be measured there."""
        values = [getattr(run, field) for run in self.associations[receiver]]
        return None if None in values else statistics.median(values)


@frozen(kw_only=True)
class Verdict:
    """A figure and its target."""

    what: str
    value: float
    limit: float
    is_least: bool  # whether the limit is the least that is to be reached, or the most
    unit: str = ""

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.is_least else self.value <= self.limit

    def told(self) -> str:
        return f"{number(self.value)}{self.unit}"

    def limit_text(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {number(self.limit)}{self.unit}"


def number(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def at_least(value: float, limit: float, what: str = "", unit: str = "") -> Verdict:
    return Verdict(what=what, value=value, limit=limit, is_least=True, unit=unit)


def at_most(value: float, limit: float, what: str = "", unit: str = "") -> Verdict:
    return Verdict(what=what, value=value, limit=limit, is_least=False, unit=unit)


def ratio_verdicts(results: Results) -> dict[str, list[Verdict]]:
    """The adapter's rates over those of each neighbour that was measured; for each the four of THROUGHPUT."""
    found = {
        neighbour: [
            at_least(results.ratio(ADAPTER, neighbour, workload), limit)
            for workload, limit in zip(THROUGHPUT, limits, strict=True)
        ]
        for neighbour, limits in LEAST_RATIOS.items()
        if neighbour in results.rates
    }
    shares = [results.ratio(BUSY, ADAPTER, workload) for workload in THROUGHPUT]
    return {BUSY: [at_least(share, LEAST_SHARE_WITH_BUSY_PLUGIN) for share in shares], **found}


def verdicts(results: Results) -> Iterator[Verdict]:
    """Return all other targets of the adapter."""
    peak = max(run.peak_mb for workload in THROUGHPUT for run in results.rates[ADAPTER][workload])
    yield at_most(peak, MOST_RESIDENT_MB, "Resident memory under load, all processes together", " MB")
    each = results.rate(ADAPTER, "each")
    yield at_least(each, LEAST_ASSOCIATIONS_PER_S, "Associations per second, one instance in each")
    if FORK in results.rates:
        yield at_least(results.ratio(ADAPTER, FORK, "each"), 1.0, "The same, to DCMTK storescp --fork +B")
    with_idle = f"with {results.association(ADAPTER, 'held') or 0:,.0f} idle associations"
    for what, field, limit, unit in (
        ("CPU to accept an association and release it", "cycle_cpu_ms", MOST_CYCLE_CPU_MS, " ms"),
        ("Memory of an idle association", "memory_kb", MOST_KB_PER_ASSOCIATION, " kB"),
        (f"CPU {with_idle} more than with none, of a core", "idle_cpu_percent", MOST_IDLE_PERCENT, " %"),
        (f"Until one more is accepted {with_idle}, longest", "another_ms", MOST_MS_FOR_ANOTHER, " ms"),
    ):
        value = results.association(ADAPTER, field)
        if value is not None:
            yield at_most(value, limit, what, unit)


# --- as JSON ----------------------------------------------------------------------------------------------------------


def to_json(results: Results) -> dict[str, Any]:
    """The figures as plain values, rounded."""
    return {
        "rates": {
            receiver: {workload: [_facts(run) for run in runs] for workload, runs in workloads.items()}
            for receiver, workloads in results.rates.items()
        },
        "associations": {receiver: [_facts(run) for run in runs] for receiver, runs in results.associations.items()},
    }


def from_json(told: Mapping[str, Any]) -> Results:
    """Return the figures that `to_json` wrote."""
    return Results(
        rates={
            receiver: {workload: [Rate(**run) for run in runs] for workload, runs in workloads.items()}
            for receiver, workloads in told["rates"].items()
        },
        associations={
            receiver: [Associations(**run) for run in runs] for receiver, runs in told["associations"].items()
        },
    )


def _facts(run: Rate | Associations) -> dict[str, float | None]:
    return {name: value if value is None else round(value, 4) for name, value in attrs.asdict(run).items()}
