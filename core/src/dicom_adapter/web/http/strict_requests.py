"""Rules for the requests of all routes: unknown parameters and malformed values are refused, not ignored."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.exceptions import ClientException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import HTTPScope
from msgspec import Struct, ValidationError, convert

MAX_DEPTH = 64  # levels of JSON: far more than any request needs, and far less than the recursion limit
WHOLE_REQUEST = frozenset({"query", "request", "scope"})  # a handler with one of these arguments may use any parameter
ENUM_VALUE = re.compile(r"Invalid enum value '.*'", re.DOTALL)  # in errors of msgspec; the value may be patient data
DECLARES_QUERY = "declares_query"  # option of a handler that has one of these arguments, but declares its parameters


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON is not nested too deeply, and has the declared types without conversion."""

    async def json(self) -> Any:
        try:
            value = await super().json()
        except RecursionError:
            is_too_deep = True
        else:
            is_too_deep = _is_deeper(value, MAX_DEPTH)
        if is_too_deep:
            raise ClientException(f"The JSON of the body is nested in more than {MAX_DEPTH} levels.")
        data = self.route_handler.parsed_data_field if isinstance(self.route_handler, HTTPRouteHandler) else None
        if data is not None and isinstance(data.annotation, type) and issubclass(data.annotation, Struct):
            _check_types(value, data.annotation)
        return value


def _check_types(value: Any, type_: type[Struct]) -> None:
    """Raise ClientException if a decoded JSON value does not have a type. Litestar would accept `"1"` as a number."""
    try:
        convert(value, type_)
    except ValidationError as failure:
        text = ENUM_VALUE.sub("Invalid enum value", str(failure))
    else:
        return
    raise ClientException("The body is invalid.", extra=[{"message": text, "source": "body"}])


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether a decoded JSON value has more than `depth` levels of objects and lists."""
    level = [value]
    for _number in range(depth + 1):
        level = [part for container in level for part in _parts(container)]
        if not level:
            return False
    return True


def _parts(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


QueryParameters = Mapping[str, bool]  # the query parameters of a handler, by name: whether each is a list


class QueryCheck:
    """Litestar guard that refuses query parameters which the handler does not have.

    If a misspelt search parameter were ignored, the search would match everything.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], QueryParameters | None] = {}  # keys: path template and method

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        """Raise ClientException if a parameter is unknown, or repeated and not a list."""
        if not self._known:
            self._known = _query_parameters(connection.app)
        known = self._known[connection.scope["path_template"], str(connection.scope.get("method"))]
        if known is None:
            return
        given = [name for name, _value in connection.query_params.multi_items()]
        wrong = {name for name in given if name not in known or (given.count(name) > 1 and not known[name])}
        if wrong:
            names = f"this resource has: {', '.join(sorted(known))}" if known else "this resource has none"
            errors = [{"message": "unknown or repeated", "key": name, "source": "query"} for name in sorted(wrong)]
            raise ClientException(f"Unknown or repeated query parameters; {names}", extra=errors)


def _query_parameters(app: Litestar) -> dict[tuple[str, str], QueryParameters | None]:
    """Return the query parameters of each handler; None for a handler that reads the request, and so any parameter.

    The keys are path template and method.
    """
    return {
        (route.path_format, method): None
        if model.expected_reserved_kwargs & WHOLE_REQUEST and not handler.opt.get(DECLARES_QUERY)
        else {parameter.field_alias: parameter.is_sequence for parameter in model.expected_query_params}
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, model) in route.route_handler_map.items()
    }


def is_text(scope: HTTPScope) -> bool:
    """Return whether the percent-decoded path and query are UTF-8, and the path has no control characters.

    Handlers check for control characters in query parameters, because a handler's message can name the parameter.
    """
    try:
        # Some servers (the test client of Litestar) include the query in the path, against the ASGI specification.
        path = unquote_to_bytes(scope["raw_path"].partition(b"?")[0]).decode()
        unquote_to_bytes(scope["query_string"]).decode()
    except UnicodeDecodeError:
        return False
    return not any(unicodedata.category(character) == "Cc" for character in path)
