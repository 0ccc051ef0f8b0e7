"""A client of the HTTP application, without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from litestar.testing import TestClient

from dicom_adapter import Secret
from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.http import make_app
from dicom_adapter.web.http.health import Health

GREEN = Health(health="green", service="running", problems=[])
Call = Callable[..., TestClient[Any]]


@pytest.fixture
def client_of() -> Iterator[Call]:
    """Return a function that creates a client of an application with handlers of plugins, and with a token if given."""
    with ExitStack() as clients:

        def make(*, token: str | None = None, health: Health = GREEN, host: str = "127.0.0.1", **mounts: Any) -> Any:
            app = make_app(mounts, lambda: health, Access(HttpConfig(token=Secret(token) if token else None)), "1.0")
            client = TestClient(app, base_url=f"http://{host}", raise_server_exceptions=False)  # type: ignore[arg-type] # any ASGI application
            return clients.enter_context(client)

        yield make
