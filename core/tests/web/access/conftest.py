"""Access control without a socket: a clock, and clients of an application with tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from attrs import frozen
from litestar import Request, delete, get, post
from litestar.testing import TestClient

from dicom_adapter import Secret
from dicom_adapter.config.listening import HttpConfig, TokenConfig, TokenRole
from dicom_adapter.ledger.events import Event
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.access.principal import Role, only, principal_of
from dicom_adapter.web.access.throttle import Throttle
from dicom_adapter.web.admin.session import session_routes
from dicom_adapter.web.http import make_app
from dicom_adapter.web.http.health import Health

GREEN = Health(health="green", service="running", problems=[])
TOKENS = {"token": "0123456789abcdef", "anna": "anna-0123456789abcdef", "wall": "wall-0123456789abcdef"}


class Monotonic:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monotonic() -> Monotonic:
    return Monotonic()


@frozen(kw_only=True)
class AccessSite:
    """An application with the tokens `token`, `anna` (operators) and `wall` (a viewer)."""

    connect: Callable[..., TestClient[Any]]  # returns another client, such as another browser
    events: list[Event]
    waits: list[float]  # seconds that attempts have waited

    def sign_in(self, name: str, **headers: str) -> tuple[TestClient[Any], Mapping[str, str]]:
        """Return a browser that has signed in with a token, and the headers of its changes."""
        browser = self.connect()
        response = browser.post("/api/session", json={"token": TOKENS[name]}, headers=headers)
        assert 201 == response.status_code, response.text
        return browser, {"X-CSRF-Token": response.json()["csrfToken"], **headers}


@get("/things")
async def read_things(request: Request[Any, Any, Any]) -> str:
    return principal_of(request).name


@post("/things", guards=[only(Role.OPERATOR)])
async def change_things(request: Request[Any, Any, Any]) -> str:
    return principal_of(request).name


@delete("/things", guards=[only(Role.OPERATOR)])
async def delete_things() -> None: ...


@get("/static/style.css")
async def style() -> str:
    return "style"


@get("/mine-only", sync_to_thread=False)
def of_plugin() -> str:
    return "mine"


def http_config(*, with_tokens: bool = True) -> HttpConfig:
    if not with_tokens:
        return HttpConfig()
    return HttpConfig(
        token=Secret(TOKENS["token"]),
        tokens={
            "anna": TokenConfig(role=TokenRole.OPERATOR, secret=Secret(TOKENS["anna"])),
            "wall": TokenConfig(role=TokenRole.VIEWER, secret=Secret(TOKENS["wall"])),
        },
    )


@pytest.fixture
def make_access_site(monotonic: Monotonic) -> Callable[..., AccessSite]:
    """Return a function that creates an application; `with_tokens=False`: only local programs have access."""

    def make(*, with_tokens: bool = True) -> AccessSite:
        events: list[Event] = []
        waits: list[float] = []

        async def wait(seconds: float) -> None:
            waits.append(seconds)

        access = Access(http_config(with_tokens=with_tokens), events.append, throttle=Throttle(monotonic), sleep=wait)
        app = make_app(
            {"mine": [of_plugin]},
            lambda: GREEN,
            access,
            "1.0",
            routes=[*session_routes(access), read_things, change_things, delete_things, style],
            public=["/static/", "/sign-in"],
            sign_in_page="/sign-in",
        )

        def connect(host: str = "http://127.0.0.1") -> TestClient[Any]:
            # Not entered: the application has no start and no end, and many clients are needed.
            return TestClient(app, base_url=host, raise_server_exceptions=False)  # type: ignore[arg-type] # any ASGI application

        return AccessSite(connect=connect, events=events, waits=waits)

    return make


@pytest.fixture
def access_site(make_access_site: Callable[..., AccessSite]) -> AccessSite:
    return make_access_site()


@pytest.fixture
def bearer() -> Callable[[str], dict[str, str]]:
    """Return a function that returns the header with a token, by the name of the token."""
    return lambda name: {"Authorization": f"Bearer {TOKENS.get(name, name)}"}
