"""The tables of metrics in `docs/metrics.md`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dicom_adapter.runtime.measures import MEASURES
from dicom_adapter.web.metrics.gauges import GAUGES

HEAD = "| metric | type | labels | meaning |\n|---|---|---|---|\n"
TABLE = re.compile(r"^\| metric \| type \|.*\n(?:\|.*\n)*", re.MULTILINE)


def metrics_updated(text: str) -> str:
    """Return the page with updated tables: first the metrics that are counted, then those that are read on request."""
    if len(TABLE.findall(text)) != 2:
        raise ValueError("docs/metrics.md needs two tables of metrics")
    tables = iter([HEAD + "".join(_counted()), HEAD + "".join(_read())])
    return TABLE.sub(lambda _: next(tables), text)


def _counted() -> Iterator[str]:
    for measure in MEASURES:
        is_histogram = bool(measure.bounds)
        name = measure.name if is_histogram else f"{measure.name}_total"
        yield _row(name, "histogram" if is_histogram else "counter", measure.labels, measure.text)


def _read() -> Iterator[str]:
    for gauge in GAUGES:
        name = f"{gauge.name}_total" if gauge.is_counter else gauge.name
        yield _row(name, "counter" if gauge.is_counter else "gauge", gauge.labels, gauge.text)


def _row(name: str, kind: str, labels: object, text: str) -> str:
    assert isinstance(labels, tuple)
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |\n"
