"""Mount everything that the host serves over HTTP: one application with access control, and its background work."""

from __future__ import annotations

from dicom_adapter import __version__
from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.access.event_queue import EventQueue
from dicom_adapter.web.admin.api import admin_routes
from dicom_adapter.web.admin.commands import Audits
from dicom_adapter.web.http.app import Mounts, make_app
from dicom_adapter.web.http.health import examine
from dicom_adapter.web.http.server import HttpServer
from dicom_adapter.web.metrics import metrics_route
from dicom_adapter.web.pages.dashboard import PUBLIC, SIGN_IN, Dashboard
from dicom_adapter.web.pages.errors import respond
from dicom_adapter.web.site import Site

__all__ = ["Site", "make_http_server"]


def make_http_server(site: Site, config: HttpConfig, mounts: Mounts) -> HttpServer:
    """Return the HTTP server with the routes of the adapter and of plugins. It is not started."""
    queue = EventQueue(site.resources.ledger)
    access = Access(config, queue.put, clock=site.resources.clock)
    audits = Audits(path=site.path, now=site.resources.clock.now)
    dashboard = Dashboard(site, config)
    app = make_app(
        mounts,
        lambda: examine(site.config(), site.resources),
        access,
        __version__,
        routes=[*admin_routes(site, access, audits), metrics_route(site), dashboard.router],
        public=PUBLIC,
        sign_in_page=SIGN_IN,
        respond=respond,
    )
    return HttpServer(app, config, [queue, audits, dashboard.live], end_streams=dashboard.live.stop)
