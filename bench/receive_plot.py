"""The plot of instances per second."""

from __future__ import annotations

from collections.abc import Mapping

import pygal
from pygal.style import CleanStyle
from receive_report import THROUGHPUT, Results
from receive_values import WORKLOADS


def draw(results: Results, names: Mapping[str, str]) -> str:
    """An SVG of bars: for each workload one for each receiver, on a logarithmic scale."""
    chart = pygal.Bar(
        logarithmic=True,
        style=CleanStyle(label_font_size=14, legend_font_size=14, value_font_size=10),
        js=[],  # it stands on a page as an image
        width=1100,
        height=520,
        legend_at_bottom=True,
        legend_at_bottom_columns=4,
        print_values=True,
        value_formatter=lambda value: f"{value:,.0f}",
        y_title="instances per second",
    )
    workloads = {workload.key: workload.name for workload in WORKLOADS}
    chart.x_labels = [workloads[key] for key in THROUGHPUT]
    for receiver in results.rates:
        chart.add(names[receiver], [results.rate(receiver, key) for key in THROUGHPUT])
    drawn: str = chart.render(is_unicode=True, disable_xml_declaration=True)
    return drawn + "\n"
