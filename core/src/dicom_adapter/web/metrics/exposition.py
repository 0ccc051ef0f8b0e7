"""The metrics in the classes of prometheus-client, which encodes them as OpenMetrics or text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import field, frozen
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from dicom_adapter.runtime.measures import MEASURES, NO_AE_TITLE, REJECTIONS, Measure
from dicom_adapter.runtime.shared_counts import NANOSECONDS, CountedSeries
from dicom_adapter.web.metrics.gauges import GAUGES, SAMPLE_AGE, Gauge
from dicom_adapter.web.metrics.sample import Sample


@frozen
class Exposition(Collector):
    """All metrics at one time."""

    counted: Sequence[CountedSeries]  # of all processes
    sample: Sample
    sample_age: float  # seconds
    submitters: Mapping[str, str] = field(factory=dict)  # name of the submitter of each configured AE title

    def collect(self) -> Iterator[Metric]:
        """Yield each metric, also without values, so that dashboards and alerts find its name."""
        totals = _totals(self.counted)
        for measure in MEASURES:
            yield _counted(measure, {**self._zeros(measure), **totals.get(measure.name, {})})
        values: dict[str, list[tuple[tuple[str, ...], float]]] = {SAMPLE_AGE.name: [((), self.sample_age)]}
        for gauge, labels, value in self.sample.values:
            values.setdefault(gauge.name, []).append((labels, value))
        for gauge in GAUGES:
            yield _read(gauge, values.get(gauge.name, []))

    def _zeros(self, measure: Measure) -> dict[tuple[str, ...], list[int]]:
        """Return zero for the labels that are known before the first event."""
        names = list(self.submitters.items())
        if measure is REJECTIONS:
            names.append((NO_AE_TITLE, ""))
        zero = [0] * (len(measure.bounds) + 2 if measure.bounds else 1)
        if measure.words:
            return {(*name[: len(measure.labels) - 1], word): zero for name in names for word in measure.words}
        known = {("ae_title",): 1, ("ae_title", "submitter"): 2}.get(tuple(measure.labels))
        return {name[:known]: zero for name in names} if known else {}


def _totals(counted: Sequence[CountedSeries]) -> dict[str, dict[tuple[str, ...], list[int]]]:
    """Add the values of all processes, by measure and labels."""
    totals: dict[str, dict[tuple[str, ...], list[int]]] = {}
    for one in counted:
        of_measure = totals.setdefault(one.name, {})
        before = of_measure.get(one.labels)
        of_measure[one.labels] = (
            list(one.values) if before is None else [sum(pair) for pair in zip(before, one.values, strict=True)]
        )
    return totals


def _counted(measure: Measure, totals: dict[tuple[str, ...], list[int]]) -> Metric:
    if not measure.bounds:
        counter = CounterMetricFamily(measure.name, measure.text, labels=measure.labels)
        for labels, (value,) in sorted(totals.items()):
            counter.add_metric(labels, value)
        return counter
    histogram = HistogramMetricFamily(measure.name, measure.text, labels=measure.labels)
    bounds = [*map(floatToGoString, measure.bounds), "+Inf"]
    for labels, (*counts, total) in sorted(totals.items()):
        buckets, below = [], 0
        for bound, count in zip(bounds, counts, strict=True):
            below += count
            buckets.append((bound, below))
        histogram.add_metric(labels, buckets, total / NANOSECONDS)
    return histogram


def _read(gauge: Gauge, values: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    family = CounterMetricFamily if gauge.is_counter else GaugeMetricFamily
    metric = family(gauge.name, gauge.text, labels=gauge.labels)
    for labels, value in values:
        metric.add_metric(labels, value)
    return metric
