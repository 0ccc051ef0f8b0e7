"""The dashboard over an adapter in the test process, without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from attrs import frozen
from litestar.testing import TestClient

from dicom_adapter import Secret
from dicom_adapter.config.listening import HttpConfig, TokenConfig, TokenRole
from dicom_adapter.testing import Adapter
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.access.principal import Role
from dicom_adapter.web.http import make_app
from dicom_adapter.web.http.health import examine
from dicom_adapter.web.pages.dashboard import PUBLIC, SIGN_IN, Dashboard
from dicom_adapter.web.pages.errors import respond
from dicom_adapter.web.site import Site

CONFIGURATION = """
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-one = "p1" }
"""
OPERATOR, VIEWER = "operator-0123456789", "viewer-0123456789abc"


@frozen
class Board:
    """The dashboard, with the adapter that it shows."""

    adapter: Adapter
    client: TestClient[Any]

    def get(self, path: str, *, role: Role = Role.OPERATOR) -> str:
        """Return the text of a page."""
        return self.read(path, role=role).text

    def read(self, path: str, *, role: Role = Role.OPERATOR) -> Any:
        """Return the response with a page."""
        return self.client.get(path, headers=headers_of(role), follow_redirects=False)


def headers_of(role: Role) -> dict[str, str]:
    token = OPERATOR if role is Role.OPERATOR else VIEWER
    return {"Accept": "text/html", "Authorization": f"Bearer {token}"}


@pytest.fixture
def board(make_adapter: Callable[[str], Adapter]) -> Iterator[Board]:
    """Return the dashboard of an adapter with one AE title, and with tokens of an operator and a viewer."""
    with ExitStack() as opened:
        adapter = make_adapter(CONFIGURATION)
        yield Board(adapter, opened.enter_context(client_of(adapter)))


@pytest.fixture
def board_of(make_adapter: Callable[[str], Adapter]) -> Iterator[Callable[[str], Board]]:
    """Return a function that creates the dashboard of an adapter with another configuration."""
    with ExitStack() as opened:

        def make(configuration: str) -> Board:
            adapter = make_adapter(configuration)
            return Board(adapter, opened.enter_context(client_of(adapter)))

        yield make


def client_of(adapter: Adapter) -> TestClient[Any]:
    site = Site(config=lambda: adapter.config, resources=adapter.resources, plugins=adapter._plugins, path="")
    viewer = TokenConfig(role=TokenRole.VIEWER, secret=Secret(VIEWER))
    config = HttpConfig(token=Secret(OPERATOR), tokens={"night": viewer})
    dashboard = Dashboard(site, config)
    app = make_app(
        {},
        lambda: examine(site.config(), site.resources),
        Access(config),
        "1.0",
        routes=[dashboard.router],
        public=PUBLIC,
        sign_in_page=SIGN_IN,
        respond=respond,
    )
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)  # type: ignore[arg-type] # any ASGI application
