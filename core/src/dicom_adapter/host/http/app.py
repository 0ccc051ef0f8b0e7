"""The application: health, what plugins mount, the OpenAPI document, and the guard before all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from litestar import Litestar, MediaType, Response, Router, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.serialization import encode_json
from litestar.types import ASGIApp

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.settings import Secret
from dicom_adapter.host.http.guard import Guard
from dicom_adapter.host.http.health import Examine, health_handler
from dicom_adapter.host.http.problems import answer

log = structlog.get_logger("dicom_adapter.http")

LARGEST_BODY = 2**20  # bytes: requests name things, they do not carry images
PREFIX = re.compile("[a-z][a-z0-9-]*")  # of what a plugin mounts, and so of its entry point
DOCUMENT = "openapi.json"
OWN = frozenset({"health", DOCUMENT})

Mounts = Mapping[str, Sequence[Any]]  # handlers, controllers and routers by the plugin that brings them


def make_app(mounts: Mounts, look: Examine, token: Secret | None, version: str) -> ASGIApp:
    """The application with what plugins mount. What cannot be mounted is logged, and hinders no other plugin."""
    handlers: list[Any] = [health_handler(look)]
    for name, brought in mounts.items():
        handlers += _routers(name, brought, handlers)
    app = Litestar(
        [*handlers, _document_handler(handlers, version, needs_token=token is not None)],
        exception_handlers={Exception: answer},
        request_max_body_size=LARGEST_BODY,
        openapi_config=None,
        logging_config=None,  # else it would set up logging for the whole process
    )
    return Guard(app, token)


def _document_handler(handlers: Sequence[Any], version: str, *, needs_token: bool) -> HTTPRouteHandler:
    """`GET /openapi.json`. Litestar's own routes for it answer in HTML whatever else is asked below them."""
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
    """What a plugin brings below its own prefix; nothing when it does not go with what there is already.

    It is tried with its OpenAPI document, first: one plugin's mistake is not to cost the others.
    """
    if not handlers:
        return []
    if name in OWN or not PREFIX.fullmatch(name):
        log.error("http_mount_failed", plugin=name, error="the name of the entry point cannot be a path of its own")
        return []
    try:
        _document_handler([*others, Router(f"/{name}", route_handlers=list(handlers))], "", needs_token=False)
    except BaseException as failure:  # noqa: BLE001 - handlers of a plugin may be wrong in any way
        log.error("http_mount_failed", plugin=name, error=describe_failure(failure))
        return []
    return [Router(f"/{name}", route_handlers=list(handlers))]
