"""Access control. If a token is configured, each request needs it; otherwise only local programs have access.

Requests of web pages of other sites, and bodies of other types than JSON, are always refused, before a handler of a
plugin runs.
"""

from __future__ import annotations

import hmac
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TypeAlias

from attrs import field, frozen
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from dicom_adapter.api.settings import Secret
from dicom_adapter.web.access.principal import LOCAL, Principal, Role, set_principal
from dicom_adapter.web.http.problems import MEDIA_TYPE, problem
from dicom_adapter.web.http.strict_requests import is_text
from dicom_adapter.web.http.web_pages import is_foreign, is_json, is_local

Headers: TypeAlias = Mapping[bytes, Sequence[bytes]]  # the values of each header, by its name in lower case

WITH_TOKEN = Principal(name="token", role=Role.OPERATOR)  # a client that has the token of the table [http]


@frozen
class _Refusal:
    status: HTTPStatus
    detail: str
    headers: Mapping[bytes, bytes] = field(factory=dict)


NO_TOKEN = _Refusal(
    HTTPStatus.UNAUTHORIZED,
    "The request needs the token of the server, in the header Authorization: Bearer <token>.",
    {b"www-authenticate": b"Bearer"},
)
NO_HOST = _Refusal(HTTPStatus.BAD_REQUEST, "Without a token, a request must have one header Host.")
# A web page may use a DNS name that resolves to this machine (DNS rebinding). The header Host shows that name.
NOT_LOCAL = _Refusal(HTTPStatus.FORBIDDEN, "Without a token, requests must be sent to localhost or a loopback address.")
FOREIGN = _Refusal(HTTPStatus.FORBIDDEN, "Requests of web pages of other sites (Origin, Sec-Fetch-Site) are refused.")
NOT_TEXT = _Refusal(
    HTTPStatus.BAD_REQUEST, "Path and query must be UTF-8, and the path must have no control characters."
)
NOT_JSON = _Refusal(
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "The body of a request must be JSON: send it with Content-Type: application/json.",
    {b"accept": b"application/json"},
)


class Guard:
    """ASGI middleware that passes a request to the application only if access is allowed."""

    def __init__(self, app: ASGIApp, token: Secret | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        refusal = self._examine(_headers(scope)) or (None if is_text(scope) else NOT_TEXT)
        if refusal is None:
            set_principal(scope, LOCAL if self._token is None else WITH_TOKEN)
            await self._app(scope, receive, send)
        else:
            await _refuse(send, refusal)

    def _examine(self, headers: Headers) -> _Refusal | None:
        """Return why a request is refused; None if it is accepted."""
        hosts = headers[b"host"]
        if self._token is not None and not contains_token(headers[b"authorization"], self._token):
            return NO_TOKEN
        if self._token is None and len(hosts) != 1:
            return NO_HOST
        if self._token is None and not is_local(hosts[0]):
            return NOT_LOCAL
        if is_foreign(b"".join(hosts), headers[b"origin"], headers[b"sec-fetch-site"]):
            return FOREIGN
        types = headers[b"content-type"]
        if _has_body(headers) and not (len(types) == 1 and is_json(types[0])):
            return NOT_JSON
        return None


def contains_token(authorization: Sequence[bytes], token: Secret) -> bool:
    """Return whether the header contains the token; the comparison takes constant time."""
    if len(authorization) != 1:
        return False
    scheme, _, given = authorization[0].partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


def _headers(scope: HTTPScope) -> Headers:
    headers: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for name, value in scope["headers"]:
        headers[name.lower()].append(value)
    return headers


def _has_body(headers: Headers) -> bool:
    """Return whether a request has a body (RFC 9112 section 6)."""
    return bool(headers[b"transfer-encoding"]) or any(value.strip(b"0") for value in headers[b"content-length"])


async def _refuse(send: Send, refusal: _Refusal) -> None:
    body = json.dumps(problem(refusal.status, refusal.detail)).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers += refusal.headers.items()
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
