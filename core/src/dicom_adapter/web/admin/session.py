"""`/api/session`: sign in, sign out, and show the principal of the request."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.exceptions import HTTPException
from litestar.params import JSONBody

from dicom_adapter.web.access.access import Access, AccessRefused
from dicom_adapter.web.access.headers import headers_of, peer_of
from dicom_adapter.web.access.principal import Role, csrf_token_of, principal_of, session_of
from dicom_adapter.web.access.sessions import cookie_header
from dicom_adapter.web.admin.routes import ApiValue, conflict, route_arguments

PATH = "/api/session"
TAGS = ["session"]


class SignIn(ApiValue, frozen=True, kw_only=True):
    """A request to sign in."""

    token: str


class SessionView(ApiValue, frozen=True, kw_only=True):
    """The principal of a request."""

    name: str
    role: str  # "viewer" or "operator"
    # A signed-in browser sends this value in the header X-CSRF-Token of each request for a change. "": no session
    csrf_token: str


def session_routes(access: Access) -> list[Any]:
    """Return the routes."""

    @get(
        PATH,
        sync_to_thread=False,
        **route_arguments(Role.VIEWER, tags=TAGS, summary="The principal of this request", operation_id="getSession"),
    )
    def show(request: Request[Any, Any, Any]) -> SessionView:
        principal = principal_of(request)
        return SessionView(name=principal.name, role=principal.role.value, csrf_token=csrf_token_of(request))

    @post(
        PATH,
        **route_arguments(
            None, 409, 413, 415, tags=TAGS, summary="Sign in with a token; sets a cookie", operation_id="signIn"
        ),
    )
    async def sign_in(request: Request[Any, Any, Any], data: JSONBody[SignIn]) -> Response[SessionView]:
        if not access.needs_token:
            raise conflict("No token is configured, so there is nothing to sign in to.")
        headers = headers_of(request.scope)
        # Browsers send the header Origin with every POST: it shows whether the page was loaded over TLS.
        is_secure = any(origin.lower().startswith(b"https:") for origin in headers[b"origin"])
        try:
            session_id, session = await access.sign_in(data.token, peer_of(request.scope), is_secure=is_secure)
        except AccessRefused as refused:
            refusal = refused.refusal
            more = {name.decode(): value.decode() for name, value in refusal.headers.items()}
            raise HTTPException(refusal.detail, status_code=refusal.status, headers=more) from None
        principal = session.principal
        view = SessionView(name=principal.name, role=principal.role.value, csrf_token=session.csrf_token)
        return Response(view, headers={"Set-Cookie": cookie_header(session_id, is_secure=is_secure)})

    @delete(
        PATH,
        sync_to_thread=False,
        **route_arguments(Role.VIEWER, 409, tags=TAGS, summary="Sign out; deletes the cookie", operation_id="signOut"),
    )
    def sign_out(request: Request[Any, Any, Any]) -> Response[None]:
        session = session_of(request)
        if session is None:
            raise conflict("This request has no session: it is not from a signed-in browser.")
        access.sign_out(session, headers_of(request.scope)[b"cookie"], peer_of(request.scope))
        return Response(None, status_code=204, headers={"Set-Cookie": cookie_header("", is_secure=session.is_secure)})

    return [show, sign_in, sign_out]
