"""Access control. With a configured token, each request needs it; without one, only local programs have access."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from http import HTTPStatus
from ipaddress import ip_address

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from dicom_adapter.api.settings import Secret
from dicom_adapter.host.http.problems import MEDIA_TYPE, problem


class Guard:
    """ASGI middleware: it passes a request to the application only if access is allowed."""

    def __init__(self, app: ASGIApp, token: Secret | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._token is None and not is_local(headers.get(b"host", b"")):
            # A web page may use a DNS name that resolves to this machine (DNS rebinding). The header shows that name.
            detail = "Without a token, requests must be sent to localhost or a loopback address."
            await _refuse(send, HTTPStatus.FORBIDDEN, detail, {})
        elif self._token is not None and not contains_token(headers.get(b"authorization", b""), self._token):
            detail = "The request needs the token of the server, in the header Authorization: Bearer <token>."
            await _refuse(send, HTTPStatus.UNAUTHORIZED, detail, {b"www-authenticate": b"Bearer"})
        else:
            await self._app(scope, receive, send)


def contains_token(authorization: bytes, token: Secret) -> bool:
    """Return whether the header contains the token; the comparison takes constant time."""
    scheme, _, given = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


def is_local(host: bytes) -> bool:
    """Return whether a Host header names localhost or a loopback address."""
    name = host.decode("latin-1").strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


async def _refuse(send: Send, status: HTTPStatus, detail: str, headers: Mapping[bytes, bytes]) -> None:
    body = json.dumps(problem(status, detail)).encode()
    all_headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*all_headers, *headers.items()]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
