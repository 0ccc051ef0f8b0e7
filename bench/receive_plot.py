"""The plot of instances per second."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pygal
from pygal.style import DefaultStyle
from receive_report import THROUGHPUT, Results
from receive_values import WORKLOADS

# pygal looks for its plugins at each import, with a function that Python 3.12 removed and for which 3.11 warns.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

DECADES = (10, 100, 1000, 10_000, 100_000)
# dicom-adapter in blue, and one colour for each product, in the order of the receivers.
COLOURS = ("#1f4e9c", "#7ba0dc", "#e08214", "#1b7837", "#5aae61", "#a6dba0", "#762a83", "#b79ac8")
NUMBERS = (
    "white",
    "black",
    "black",
    "white",
    "black",
    "black",
    "white",
    "black",
)  # colours of the numbers on these colours
FROM_BELOW = tuple(reversed(THROUGHPUT))  # the order in which bars are drawn


def draw(results: Results, names: Mapping[str, str]) -> str:
    """Draw an SVG with one bar for each workload and receiver, on a logarithmic scale."""
    lowest, highest = _range(results)
    style = DefaultStyle(
        background="white",
        plot_background="white",
        colors=COLOURS,
        opacity="1",
        font_family="sans-serif",
        label_font_size=14,
        major_label_font_size=14,
        legend_font_size=13,
        value_font_size=12,
        value_colors=NUMBERS,
    )
    chart = pygal.HorizontalBar(
        style=style,
        js=[],  # no scripts, because the page shows the plot as an image
        width=1000,
        height=820,
        logarithmic=True,
        zero=lowest,
        range=(lowest, highest),
        y_labels=[decade for decade in DECADES if lowest <= decade <= highest],
        print_values=True,
        value_formatter=lambda value: f"{value:,.0f}",
        x_title="instances per second",
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        spacing=10,
    )
    workloads = {workload.key: workload.name for workload in WORKLOADS}
    chart.x_labels = [workloads[key] for key in FROM_BELOW]
    for receiver in results.rates:
        chart.add(names[receiver], [results.rate(receiver, key) for key in FROM_BELOW])
    drawn: str = chart.render(is_unicode=True, disable_xml_declaration=True)
    return drawn + "\n"


def _range(results: Results) -> tuple[float, float]:
    """Return the range from the decade below the slowest rate, for visible bars, to just above the fastest rate."""
    rates = [results.rate(receiver, key) for receiver in results.rates for key in THROUGHPUT]
    return max(decade for decade in (1, *DECADES) if decade < max(2, min(rates))), max(rates) * 1.2
