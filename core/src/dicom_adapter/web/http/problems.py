"""Respond to every error with problem details (RFC 9457), without patient data and internal details."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from dicom_adapter.api.errors import NO_RESOURCES_TEXT, Refused, Retriable, describe_failure, reports_no_resources

log = structlog.get_logger("dicom_adapter.http")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = "5"
UNTYPED = "about:blank"  # RFC 9457 section 4.2.1: no information besides the status


def problem(status: int, detail: str, *, kind: str = UNTYPED, **members: Any) -> dict[str, Any]:
    """Return the members of a problem. `members` are additional members."""
    return {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}


def respond_to_failure(_request: Request[Any, Any, Any], failure: Exception) -> Response[Any]:
    """Return the response to a request whose handler raised."""
    if isinstance(failure, HTTPException):
        return _respond(failure.status_code, failure.detail, failure.headers, _members(failure.extra))
    if isinstance(failure, Retriable):
        return _respond(HTTPStatus.SERVICE_UNAVAILABLE, str(failure), {"Retry-After": RETRY_AFTER_S})
    if isinstance(failure, Refused):
        return _respond(HTTPStatus.CONFLICT, str(failure))
    if reports_no_resources(failure):
        text = f"{NO_RESOURCES_TEXT[0].upper()}{NO_RESOURCES_TEXT[1:]}."
        return _respond(HTTPStatus.SERVICE_UNAVAILABLE, text, {"Retry-After": RETRY_AFTER_S})
    log.error("http_request_failed", error=describe_failure(failure))
    return _respond(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "This is a bug of the adapter or of a plugin. The log of the adapter shows the location.",
    )


def _members(extra: Any) -> dict[str, Any]:
    """Return additional members of a problem: the members from a plugin, or Litestar's list of invalid parameters."""
    if isinstance(extra, Mapping):
        return dict(extra)
    return {"errors": extra} if extra else {}


def _respond(
    status: int, detail: str, headers: Mapping[str, str] | None = None, members: Mapping[str, Any] | None = None
) -> Response[bytes]:
    members = dict(members or {})
    kind = members.pop("type", UNTYPED)
    content = json.dumps(problem(status, detail, kind=kind, **members)).encode()
    return Response(content, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))
