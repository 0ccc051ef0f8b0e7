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
# The colour of the numbers on a bar, for each of COLOURS.
NUMBER_COLOURS = ("white", "black", "black", "white", "black", "black", "white", "black")
BOTTOM_UP = tuple(reversed(THROUGHPUT))  # workloads in the order of the plot: the first is at the bottom


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
        value_colors=NUMBER_COLOURS,
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
    chart.x_labels = [workloads[key] for key in BOTTOM_UP]
    for receiver in results.rates:
        chart.add(names[receiver], [results.rate(receiver, key) for key in BOTTOM_UP])
    drawn: str = chart.render(is_unicode=True, disable_xml_declaration=True)
    return drawn + "\n"


def _range(results: Results) -> tuple[float, float]:
    """Return the range of the axis. It starts a decade below the slowest rate, so that the slowest bar is visible."""
    rates = [results.rate(receiver, key) for receiver in results.rates for key in THROUGHPUT]
    return max(decade for decade in (1, *DECADES) if decade < max(2, min(rates))), max(rates) * 1.2
