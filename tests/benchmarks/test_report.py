"""The report of the benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import results_page
from attrs import evolve
from receive_report import Results, at_least, at_most, from_json, number, ratio_verdicts, to_json, verdicts
from receive_values import WORKLOADS, Associations, Rate

RUN = Rate(rate=1000.0, count=3000, cpu_ms=0.5, sender_cpu_us=20.0, peak_mb=100.0, rejections=0)
HELD = Associations(
    accept_ms=0.5, cycle_cpu_ms=0.4, echo_ms=0.1, held=990, memory_kb=30.0, idle_cpu_percent=0.0, another_ms=2.0
)
ONE_AT_A_TIME = evolve(HELD, held=0, memory_kb=None, idle_cpu_percent=None, another_ms=None)
NAMES = {"adapter": "dicom-adapter", "adapter-busy": "dicom-adapter, busy", "orthanc": "Orthanc"}


def results(**rates: list[float]) -> Results:
    """Return results with the same rates in all workloads. An underscore in a receiver's name stands for a hyphen."""
    runs = {name.replace("_", "-"): [evolve(RUN, rate=rate) for rate in values] for name, values in rates.items()}
    return Results(
        rates={name: {workload.key: values for workload in WORKLOADS} for name, values in runs.items()},
        associations={name: [HELD if name == "adapter" else ONE_AT_A_TIME] for name in runs},
    )


def test_a_ratio_is_the_median_of_the_ratios_of_all_rounds() -> None:
    """A round in which the machine was slow for both receivers has the same weight as the other rounds."""
    measured = results(adapter=[900.0, 90.0, 1200.0], orthanc=[300.0, 30.0, 100.0])
    assert 3.0 == measured.ratio("adapter", "orthanc", "large-1")
    assert 900.0 == measured.rate("adapter", "large-1")


def test_ratios_are_compared_with_each_measured_product() -> None:
    """Three times Orthanc is sufficient for large instances but not for small ones.

    With a busy plugin, half of the adapter's rate without it is sufficient.
    """
    ratios = ratio_verdicts(results(adapter=[900.0], adapter_busy=[450.0], orthanc=[300.0]))
    assert {"adapter-busy", "orthanc"} == ratios.keys()
    assert [True, True, False, False] == [verdict.is_met for verdict in ratios["orthanc"]]
    assert [True] * 4 == [verdict.is_met for verdict in ratios["adapter-busy"]]


def test_the_busy_plugin_has_no_ratio_if_it_was_not_measured() -> None:
    """The short form of the benchmark leaves it out."""
    assert ["orthanc"] == list(ratio_verdicts(results(adapter=[900.0], orthanc=[300.0])))


def test_each_other_figure_is_compared_with_its_limit() -> None:
    """All limits are met except one: DCMTK with one process for each association is faster."""
    figures = list(verdicts(results(adapter=[2700.0], adapter_busy=[1350.0], storescp_fork=[3000.0])))
    assert ["Associations per second ÷ DCMTK storescp --fork +B"] == [
        verdict.what for verdict in figures if not verdict.is_met
    ]


@pytest.mark.parametrize(
    ("verdict", "is_met", "limit"),
    [
        (at_least(3.0, 3.0), True, "≥ 3"),
        (at_least(2.99, 3.0), False, "≥ 3"),
        (at_most(150.0, 150.0, unit=" MB"), True, "≤ 150 MB"),
        (at_most(150.1, 150.0, unit=" MB"), False, "≤ 150 MB"),
    ],
)
def test_a_limit_that_is_just_reached_is_met(verdict: Any, is_met: bool, limit: str) -> None:
    """The limit is shown as a minimum or a maximum."""
    assert (is_met, limit) == (verdict.is_met, verdict.limit_text())


@pytest.mark.parametrize(
    ("value", "text"), [(16234.4, "16,234"), (99.94, "99.9"), (1.2345, "1.23"), (0.04567, "0.0457")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    """Large numbers have all digits, and no number has an exponent."""
    assert text == number(value)


def test_results_can_be_written_and_read() -> None:
    written = results(adapter=[900.0, 1000.0], orthanc=[300.0, 290.0])
    assert to_json(written) == to_json(from_json(json.loads(json.dumps(to_json(written)))))


def test_figures_and_plot_are_written_between_the_markers_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second publication replaces the block of the first.

    The text before and after the block is kept, and the figures of the other benchmarks are included.
    """
    monkeypatch.setattr(results_page, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results_page, "DOCS", tmp_path)
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{results_page.BEGIN}old\n{results_page.END}after\n", encoding="utf-8")
    report = {**ABOUT, **to_json(results(adapter=[900.0], adapter_busy=[450.0], orthanc=[300.0]))}
    results_page.write_results("receiving", report)
    results_page.write_results("due", {"p99_ms": 12.5, "open_groups": 10_000})
    results_page.write_results("cache", CACHE)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!--")
    assert text.endswith("-->\nafter\n")
    assert "old" not in text
    assert 1 == len(re.findall(r"^\| Orthanc ", text.partition("### Targets")[0], re.MULTILINE))
    assert "| dicom-adapter ÷ Orthanc | 3 (≥ 3) | 3 (≥ 2.5) | 3 (≥ 5) **no** | 3 (≥ 6) **no** |" in text
    assert "with 10,000 groups, 99th percentile | 12.5 ms | ≤ 30 ms | yes |" in text
    assert "`cache` ÷ `aetitle`, lowest ratio of all workloads | 0.65 | ≥ 0.7 | **no** |" in text
    assert (
        "Longest time to compose a job of 10,000 instances, with 100,000 kept instances | 0.8 s | ≤ 1 s | yes |" in text
    )
    assert "DCMTK storescp (not installed)" in text
    assert (tmp_path / "performance.svg").read_text(encoding="utf-8").startswith("<svg")


CACHE = {
    "received_per_second": {"large-1": {"ratio": 0.95}, "small-1": {"ratio": 0.65}},
    "instances": 100_000,
    "search_ms": {"p50": 10.0, "p99": 40.0},
    "compose_10000_s": [0.7, 0.8],
}
ABOUT = {
    "machine": {
        "cpu": "test",
        "cores": 2,
        "memory_gb": 8.0,
        "kernel": "6",
        "python": "3.11",
        "file_system": "ext4",
        "load": 0.1,
    },
    "measured_at": "2026-11-25T00:00:00+00:00",
    "rounds": 1,
    "names": NAMES,
    "syncs": ["adapter", "adapter-busy", "orthanc"],
    "versions": {"Orthanc": "1.10.1"},
    "left_out": ["DCMTK storescp (not installed)"],
}
