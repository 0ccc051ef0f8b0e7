"""An adapter on a virtual clock, and clients of its admin API without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from attrs import frozen
from litestar.testing import TestClient

from dicom_adapter import Secret
from dicom_adapter.config.listening import HttpConfig, TokenConfig, TokenRole
from dicom_adapter.ledger import recorded_events
from dicom_adapter.testing import Adapter
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.admin.api import admin_routes
from dicom_adapter.web.admin.commands import Audits
from dicom_adapter.web.http import make_app
from dicom_adapter.web.http.health import examine
from dicom_adapter.web.site import Site

OPERATOR, VIEWER = "anna-0123456789abcdef", "wall-0123456789abcdef"
CONFIGURATION = """
[ae-titles.LUNG]
processor = "by-study"
[ae-titles.LUNG.settings]
pipeline-lung = "pipeline-1"
"""


@frozen(kw_only=True)
class ApiSite:
    """An adapter, and clients of its API with the roles operator (`anna`) and viewer (`wall`)."""

    adapter: Adapter
    application: Any
    operator: TestClient[Any]
    viewer: TestClient[Any]

    def changes(self) -> list[tuple[str, object]]:
        """Return the names of the events with an operator, with the operator."""
        with self.adapter.ledger.read() as transaction:
            found = recorded_events.after(transaction, 0, 10_000)
        return [(event.event, event.detail["by"]) for _number, event in found if "by" in event.detail]


async def _do_not_wait(_seconds: float) -> None: ...


TOKENS = HttpConfig(
    tokens={
        "anna": TokenConfig(role=TokenRole.OPERATOR, secret=Secret(OPERATOR)),
        "wall": TokenConfig(role=TokenRole.VIEWER, secret=Secret(VIEWER)),
    }
)


def open_site(adapter: Adapter, path: str = "", config: HttpConfig = TOKENS) -> ApiSite:
    site = Site(config=lambda: adapter.config, resources=adapter.resources, plugins=adapter._plugins, path=path)
    access = Access(config, sleep=_do_not_wait)
    routes = admin_routes(site, access, Audits(path=path, now=adapter.clock.now))
    app = make_app({}, lambda: examine(adapter.config, adapter.resources), access, "1.0", routes=routes)

    def connect(token: str) -> TestClient[Any]:
        headers = {"Authorization": f"Bearer {token}"}
        client: TestClient[Any] = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)  # type: ignore[arg-type] # any ASGI application
        client.headers.update(headers)
        return client

    return ApiSite(adapter=adapter, application=app, operator=connect(OPERATOR), viewer=connect(VIEWER))


@pytest.fixture
def api(make_adapter: Callable[..., Adapter]) -> ApiSite:
    return open_site(make_adapter(CONFIGURATION))


@pytest.fixture
def open_api(make_adapter: Callable[..., Adapter]) -> ApiSite:
    """The API of an adapter that has no token."""
    return open_site(make_adapter(CONFIGURATION), config=HttpConfig())


@pytest.fixture
def make_api(make_adapter: Callable[..., Adapter]) -> Callable[..., ApiSite]:
    """Return a function that opens the API of an adapter with this configuration."""
    return lambda configuration, path="": open_site(make_adapter(configuration), path)


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSite]:
    """The API of an adapter for tests of a module that only read."""
    with closing(Adapter(tmp_path_factory.mktemp("shared"), CONFIGURATION)) as adapter:
        yield open_site(adapter)
