"""The route `GET /metrics`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client.exposition import choose_encoder

from dicom_adapter.web.metrics.exposition import Exposition
from dicom_adapter.web.metrics.sample import take_sample
from dicom_adapter.web.metrics.sampler import Sampler
from dicom_adapter.web.site import Site


def metrics_route(site: Site) -> HTTPRouteHandler:
    """Return the route with the metrics of the service."""
    sampler = Sampler(lambda: take_sample(site.config(), site.resources, site.certificates()))

    def expose() -> Exposition:
        config = site.config()
        submitters = {name: config.submitter_for(name) for name in config.ae_titles}
        return Exposition(site.read_counts(), *sampler.latest(), submitters)

    return metrics_handler(expose)


def metrics_handler(expose: Callable[[], Exposition]) -> HTTPRouteHandler:
    """Return the route with the metrics that `expose` returns."""

    @get(
        "/metrics",
        sync_to_thread=True,
        summary="Metrics for Prometheus",
        description="OpenMetrics if the header Accept requests it, otherwise the text format of Prometheus.",
        operation_id="metrics",
        tags=["service"],
        media_type="text/plain",
    )
    def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(expose()), media_type=content_type)

    return metrics
