"""The HTTP application: health, the routes of plugins and the OpenAPI document, with access control."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog
from litestar import Litestar, MediaType, Request, Response, Router, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.serialization import encode_json
from litestar.types import ASGIApp

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.access.principal import Role, only
from dicom_adapter.web.http.guard import Guard
from dicom_adapter.web.http.health import Examine, health_handler
from dicom_adapter.web.http.problems import respond_to_failure
from dicom_adapter.web.http.strict_requests import QueryCheck, StrictRequest

log = structlog.get_logger("dicom_adapter.http")

MAX_BODY = 2**20  # maximum number of bytes of a request body: it contains identifiers, not images
PREFIX = re.compile("[a-z][a-z0-9-]*")  # the path prefix of a plugin, which is the name of its entry point
DOCUMENT = "openapi.json"
PAGES = ("jobs", "studies", "quarantine", "senders", "events", "configuration", "plugins", "live", "sign-in", "static")
RESERVED = frozenset({"api", "health", "metrics", DOCUMENT, *PAGES})

Responder = Callable[[Request[Any, Any, Any], Exception], Response[Any]]
Mounts = Mapping[str, Sequence[Any]]  # handlers, controllers and routers, by plugin


def make_app(
    mounts: Mounts,
    examine: Examine,
    access: Access,
    version: str,
    *,
    routes: Sequence[Any] = (),
    public: Collection[str] = (),
    sign_in_page: str = "",
    respond: Responder = respond_to_failure,
) -> ASGIApp:
    """Return the application with the routes of plugins. Invalid routes are logged and omitted.

    `routes`: the adapter's own handlers, controllers and routers, for example of the admin API. `public` and
    `sign_in_page`: see `Guard`. `respond` returns the response to a request whose handler raised.
    """
    handlers: list[Any] = [health_handler(examine), *routes]
    for name, plugin_handlers in mounts.items():
        handlers += _routers(name, plugin_handlers, handlers)
    app = Litestar(
        [*handlers, _document_handler(handlers, version, needs_token=access.needs_token)],
        exception_handlers={Exception: respond},
        guards=[QueryCheck()],
        request_class=StrictRequest,
        request_max_body_size=MAX_BODY,
        openapi_config=None,
        logging_config=None,  # otherwise Litestar configures logging for the whole process
    )
    return Guard(app, access, public, sign_in_page)


def _document_handler(handlers: Sequence[Any], version: str, *, needs_token: bool) -> HTTPRouteHandler:
    """Return the route `GET /openapi.json`. It replaces the routes of Litestar, which respond with HTML pages."""
    config = OpenAPIConfig(title="dicom-adapter", version=version)
    if needs_token:
        config.components = Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")})
        config.security = [{"token": []}]
    described = Litestar(handlers, openapi_config=config, logging_config=None)
    document = encode_json(described.openapi_schema.to_schema())

    @get(f"/{DOCUMENT}", sync_to_thread=False)
    def openapi() -> Response[bytes]:
        return Response(document, media_type=MediaType.JSON)

    return openapi


def _routers(name: str, handlers: Sequence[Any], others: Sequence[Any]) -> list[Router]:
    """Return a router with the handlers of a plugin below its prefix; an empty list if they are invalid.

    `others`: the handlers that are mounted already. The router is tested together with them, including the OpenAPI
    document, so that a mistake of one plugin does not affect the others.
    """
    if not handlers:
        return []
    if name in RESERVED or not PREFIX.fullmatch(name):
        log.error("http_mount_failed", plugin=name, error="the name of the entry point is not a valid path")
        return []
    try:
        _document_handler([*others, Router(f"/{name}", route_handlers=list(handlers))], "", needs_token=False)
    except BaseException as failure:  # noqa: BLE001 - invalid handlers of a plugin may raise anything
        log.error("http_mount_failed", plugin=name, error=describe_failure(failure))
        return []
    return [Router(f"/{name}", route_handlers=list(handlers), guards=[only(Role.OPERATOR)])]
