"""The parts that all routes of the admin API have in common: errors, roles and the base class of values."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, TypeAlias, TypeVar

from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct, convert

from dicom_adapter.web.access.principal import Role, only
from dicom_adapter.web.http.problems import MEDIA_TYPE
from dicom_adapter.web.http.strict_requests import DECLARES_QUERY

PREFIX = "/api"
Json: TypeAlias = dict[str, Any]  # an object whose members the description of the route explains
Value = TypeVar("Value")
DESCRIPTIONS = {
    400: "The request is invalid",
    401: "The token is missing or wrong",
    403: "The role does not allow the request, or a web page of another site sent it",
    404: "The object does not exist",
    409: "The current state does not allow the request",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "Too many wrong tokens came from this address",
    503: "Temporarily unavailable; retry",
}


class ApiValue(Struct, rename="camel", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of the values in requests and responses. Names in JSON are in camel case."""

    def __repr__(self) -> str:
        return type(self).__name__  # without the values, which may be secrets or patient data


class ApiProblem(ApiValue, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def route_arguments(role: Role | None, *statuses: int, **more: Any) -> dict[str, Any]:
    """Return the arguments of a route: its role, a response for each error, and `more`.

    None as role: the route itself checks the access. `statuses`: the errors of this route, in addition to the errors
    that each route has.
    """
    responses = {
        status: ResponseSpec(
            data_container=ApiProblem,
            generate_examples=False,
            description=DESCRIPTIONS[status],
            media_type=MEDIA_TYPE,
        )
        for status in sorted({400, 401, 403, 429, *statuses, 503})
    }
    guards = [] if role is None else [only(role)]
    opt = {"role": "public" if role is None else role.value, DECLARES_QUERY: True}
    return {"responses": responses, "guards": guards, "opt": opt, **more}


def view(document: Any, type_: type[Value]) -> Value:
    """Return a document of `operations.documents` as a value. A member that the class does not declare is an error."""
    return convert(document, type_)


def time_of(moment: datetime | None) -> datetime | None:
    """Return a time of a request in UTC. A time without a zone is in UTC."""
    if moment is None:
        return None
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)


def not_found(detail: str) -> HTTPException:
    """Return the error for an object that does not exist."""
    return HTTPException(detail, status_code=404)


def conflict(detail: str) -> HTTPException:
    """Return the error for a request that the current state does not allow."""
    return HTTPException(detail, status_code=409)
