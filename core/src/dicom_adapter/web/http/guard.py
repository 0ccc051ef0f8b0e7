"""Access control. If a token is configured, each request needs it; otherwise only local programs have access.

Requests of web pages of other sites, and bodies of other types than JSON, are always refused, before a handler of a
plugin runs.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import quote

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from dicom_adapter.web.access.access import Access, AccessRefusal, AccessRefused
from dicom_adapter.web.access.headers import Headers, headers_of, peer_of
from dicom_adapter.web.access.principal import set_identity
from dicom_adapter.web.http.problems import MEDIA_TYPE, problem
from dicom_adapter.web.http.strict_requests import is_text
from dicom_adapter.web.http.web_pages import is_foreign, is_json, is_local

NO_HOST = AccessRefusal(status=HTTPStatus.BAD_REQUEST, detail="Without a token, a request must have one header Host.")
# A web page may use a DNS name that resolves to this machine (DNS rebinding). The header Host shows that name.
NOT_LOCAL = AccessRefusal(
    status=HTTPStatus.FORBIDDEN, detail="Without a token, requests must be sent to localhost or a loopback address."
)
FOREIGN = AccessRefusal(
    status=HTTPStatus.FORBIDDEN,
    detail="Requests of web pages of other sites (Origin, Sec-Fetch-Site) are refused.",
)
NOT_TEXT = AccessRefusal(
    status=HTTPStatus.BAD_REQUEST,
    detail="Path and query must be UTF-8, and the path must have no control characters.",
)
NOT_JSON = AccessRefusal(
    status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    detail="The body of a request must be JSON: send it with Content-Type: application/json.",
    headers={b"accept": b"application/json"},
)
SIGN_IN = ("POST", "/api/session")  # the request with which a browser signs in


class Guard:
    """ASGI middleware that passes a request to the application only if access is allowed."""

    def __init__(self, app: ASGIApp, access: Access, public: Collection[str] = (), sign_in_page: str = "") -> None:
        """`public`: paths that need no token, or the beginnings of such paths, with a slash at their end.

        `sign_in_page`: the path to which a browser without a session is redirected when it requests a page.
        """
        self._app = app
        self._access = access
        self._public = public
        self._sign_in_page = sign_in_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        refusal = await self._authenticate(scope, headers) or self._examine(scope, headers)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await _refuse(send, self._redirection(scope, headers, refusal) or refusal)

    async def _authenticate(self, scope: HTTPScope, headers: Headers) -> AccessRefusal | None:
        """Store the principal in the scope. Return why the request has none although it needs one."""
        if self._is_public(scope):
            return None
        try:
            requester = await self._access.identify(headers, peer_of(scope), scope["method"])
        except AccessRefused as refused:
            return refused.refusal
        set_identity(scope, requester.principal, requester.session)
        return None

    def _is_public(self, scope: HTTPScope) -> bool:
        path = scope["path"]
        if not self._access.needs_token or "//" in path or "/." in path:
            return False
        is_beginning = any(path.startswith(public) for public in self._public if public.endswith("/"))
        return (scope["method"], path) == SIGN_IN or path in self._public or is_beginning

    def _examine(self, scope: HTTPScope, headers: Headers) -> AccessRefusal | None:
        """Return why a request is refused; None if it is accepted."""
        hosts = headers[b"host"]
        if not self._access.needs_token and len(hosts) != 1:
            return NO_HOST
        if not self._access.needs_token and not is_local(hosts[0]):
            return NOT_LOCAL
        if is_foreign(b"".join(hosts), headers[b"origin"], headers[b"sec-fetch-site"]):
            return FOREIGN
        types = headers[b"content-type"]
        if _has_body(headers) and not (len(types) == 1 and is_json(types[0])):
            return NOT_JSON
        return None if is_text(scope) else NOT_TEXT

    def _redirection(self, scope: HTTPScope, headers: Headers, refusal: AccessRefusal) -> AccessRefusal | None:
        """Return the redirection of a browser that requests a page without a session; None for other requests."""
        is_page = scope["method"] == "GET" and any(b"text/html" in value for value in headers[b"accept"])
        if not (self._sign_in_page and is_page and refusal.status is HTTPStatus.UNAUTHORIZED):
            return None
        location = f"{self._sign_in_page}?next={quote(scope['path'], safe='/')}"
        return AccessRefusal(
            status=HTTPStatus.SEE_OTHER, detail="Sign in first.", headers={b"location": location.encode("ascii")}
        )


def _has_body(headers: Headers) -> bool:
    """Return whether a request has a body (RFC 9112 section 6)."""
    return bool(headers[b"transfer-encoding"]) or any(value.strip(b"0") for value in headers[b"content-length"])


async def _refuse(send: Send, refusal: AccessRefusal) -> None:
    body = json.dumps(problem(refusal.status, refusal.detail)).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers += refusal.headers.items()
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
