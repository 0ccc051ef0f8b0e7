"""The dashboard as the HTTP server mounts it."""

from __future__ import annotations

from litestar import Router

from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.web.pages.live import Live
from dicom_adapter.web.pages.routes import page_routes
from dicom_adapter.web.pages.snapshots import Snapshots
from dicom_adapter.web.site import Site

SIGN_IN = "/sign-in"
PUBLIC = (SIGN_IN, "/static/")  # paths that need no token


class Dashboard:
    """The routes of the pages, and their live updates."""

    def __init__(self, site: Site, config: HttpConfig) -> None:
        snapshots = Snapshots(site)
        self.live = Live(snapshots.compute, most_streams(config))
        self.router = Router("/", route_handlers=list(page_routes(site, self.live, snapshots)))


def most_streams(config: HttpConfig) -> int:
    """Return the maximum number of live pages: the rest of the connections is for requests."""
    per_peer = config.max_connections_per_peer or config.max_connections
    return max(1, min(config.max_connections // 2, per_peer * 3 // 4))
