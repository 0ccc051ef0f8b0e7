"""The figures of all rounds, and their comparison with the targets. No function reads or writes files."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import attrs
from attrs import frozen
from receive_values import Associations, Rate

ADAPTER, BUSY, FORK = "adapter", "adapter-busy", "storescp-fork"
THROUGHPUT = ("large-1", "large-8", "small-1", "small-8")  # workloads, in the order of the limits below
# minimum of the adapter's rate divided by that of another receiver, for each workload of THROUGHPUT
MIN_RATIOS: Mapping[str, tuple[float, ...]] = {
    "orthanc": (3.0, 2.5, 5.0, 6.0),
    "pynetdicom": (6.0, 15.0, 10.0, 25.0),
    "storescp-b": (0.6, 1.0, 0.4, 1.0),
}
MIN_SHARE_WITH_BUSY_PLUGIN = 0.5  # rate with the busy plugin divided by the rate without it
MAX_RESIDENT_MB = 140.0  # all processes together, under load
MAX_KB_PER_ASSOCIATION = 500.0  # memory of an idle association
MAX_CYCLE_CPU_MS = 0.4  # CPU time to accept and release an association
MIN_ASSOCIATIONS_PER_S = 1000.0  # with one instance in each
MAX_IDLE_PERCENT = 1.0  # of one core: a smaller share is not distinguishable from the receiver's other work
MAX_MS_FOR_ANOTHER = 50.0  # until an association is accepted while others are idle


@frozen(kw_only=True)
class Results:
    """The measured results."""

    rates: Mapping[str, Mapping[str, Sequence[Rate]]]  # by receiver and workload, one for each round
    associations: Mapping[str, Sequence[Associations]]  # by receiver

    def rate(self, receiver: str, workload: str, field: str = "rate") -> float:
        """Return the median of all rounds."""
        values: list[float] = [getattr(run, field) for run in self.rates[receiver][workload]]
        return statistics.median(values)

    def ratio(self, ours: str, theirs: str, workload: str) -> float:
        """Return the median of the ratios of each round, because other load of the machine affects both receivers."""
        runs = zip(self.rates[ours][workload], self.rates[theirs][workload], strict=True)
        return statistics.median(our.rate / their.rate for our, their in runs)

    def peak_mb(self, receiver: str) -> float:
        """Return the maximum of all runs."""
        return max(run.peak_mb for run in self._runs(receiver))

    def proportional_mb(self, receiver: str) -> float | None:
        """Return the maximum of all runs, or None without a measurement."""
        return max((run.proportional_mb for run in self._runs(receiver) if run.proportional_mb), default=None)

    def _runs(self, receiver: str) -> Iterator[Rate]:
        return chain.from_iterable(self.rates[receiver].values())

    def association(self, receiver: str, field: str) -> float | None:
        """Return the median of all rounds, or None without a measurement."""
        values = [getattr(run, field) for run in self.associations[receiver]]
        return None if None in values else statistics.median(values)


@frozen(kw_only=True)
class Verdict:
    """A figure and its target."""

    what: str
    value: float
    limit: float
    is_least: bool  # whether the limit is a minimum, otherwise a maximum
    unit: str = ""

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.is_least else self.value <= self.limit

    def text(self) -> str:
        return f"{number(self.value)}{self.unit}"

    def limit_text(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {number(self.limit)}{self.unit}"


def number(value: float) -> str:
    """Format a number with three significant digits and without exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def at_least(value: float, limit: float, what: str = "", unit: str = "") -> Verdict:
    return Verdict(what=what, value=value, limit=limit, is_least=True, unit=unit)


def at_most(value: float, limit: float, what: str = "", unit: str = "") -> Verdict:
    return Verdict(what=what, value=value, limit=limit, is_least=False, unit=unit)


def ratio_verdicts(results: Results) -> dict[str, list[Verdict]]:
    """Return the ratios of the adapter's rates to those of each measured product, in the order of THROUGHPUT.

    The key BUSY has the ratios of the rates with the busy plugin to those without it, if these were measured.
    """
    found = {
        product: [
            at_least(results.ratio(ADAPTER, product, workload), limit)
            for workload, limit in zip(THROUGHPUT, limits, strict=True)
        ]
        for product, limits in MIN_RATIOS.items()
        if product in results.rates
    }
    if BUSY not in results.rates:
        return found
    shares = [results.ratio(BUSY, ADAPTER, workload) for workload in THROUGHPUT]
    return {BUSY: [at_least(share, MIN_SHARE_WITH_BUSY_PLUGIN) for share in shares], **found}


def verdicts(results: Results) -> Iterator[Verdict]:
    """Yield the adapter's memory and the cost of its associations, with their targets."""
    peak = max(run.peak_mb for workload in THROUGHPUT for run in results.rates[ADAPTER][workload])
    yield at_most(peak, MAX_RESIDENT_MB, "Resident memory under load, all processes together", " MB")
    each = results.rate(ADAPTER, "each")
    yield at_least(each, MIN_ASSOCIATIONS_PER_S, "Associations per second, one instance in each")
    if FORK in results.rates:
        yield at_least(results.ratio(ADAPTER, FORK, "each"), 1.0, "Associations per second ÷ DCMTK storescp --fork +B")
    idle = f"{results.association(ADAPTER, 'held') or 0:,.0f} idle associations"
    for what, field, limit, unit in (
        ("CPU to accept an association and release it", "cycle_cpu_ms", MAX_CYCLE_CPU_MS, " ms"),
        ("Memory of an idle association", "memory_kb", MAX_KB_PER_ASSOCIATION, " kB"),
        (f"Additional CPU for {idle}, in percent of one core", "idle_cpu_percent", MAX_IDLE_PERCENT, " %"),
        (f"Longest time to accept another association, with {idle}", "another_ms", MAX_MS_FOR_ANOTHER, " ms"),
    ):
        value = results.association(ADAPTER, field)
        if value is not None:
            yield at_most(value, limit, what, unit)


# --- as JSON ----------------------------------------------------------------------------------------------------------


def to_json(results: Results) -> dict[str, Any]:
    """Return the figures as plain values, rounded."""
    return {
        "rates": {
            receiver: {workload: [_facts(run) for run in runs] for workload, runs in workloads.items()}
            for receiver, workloads in results.rates.items()
        },
        "associations": {receiver: [_facts(run) for run in runs] for receiver, runs in results.associations.items()},
    }


def from_json(values: Mapping[str, Any]) -> Results:
    """Return the figures that `to_json` wrote."""
    return Results(
        rates={
            receiver: {workload: [Rate(**run) for run in runs] for workload, runs in workloads.items()}
            for receiver, workloads in values["rates"].items()
        },
        associations={
            receiver: [Associations(**run) for run in runs] for receiver, runs in values["associations"].items()
        },
    )


def _facts(run: Rate | Associations) -> dict[str, float | None]:
    return {name: value if value is None else round(value, 4) for name, value in attrs.asdict(run).items()}
