"""Metrics of the service for Prometheus: `GET /metrics`.

`runtime.measures` lists the counters and histograms, `gauges` all other metrics. `sample` reads the values of the
gauges, and `processes` those of the processes. `sampler` limits how often that is done, and how long a request waits.
`exposition` combines a sample and the counts of all processes. `route` is the route.

Every value of a label is a name from the configuration or a word of a fixed set.
"""

from dicom_adapter.web.metrics.route import metrics_route

__all__ = ["metrics_route"]
