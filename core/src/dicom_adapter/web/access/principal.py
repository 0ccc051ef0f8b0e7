"""The principal of a request: its name and its role."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from attrs import frozen
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

if TYPE_CHECKING:
    from dicom_adapter.web.access.sessions import Session

SCOPE_KEY = "principal"  # key of the ASGI scope, where the guard of the server stores the principal
SESSION_KEY = "dicom_adapter_session"


class Role(str, Enum):
    """The role of a principal."""

    VIEWER = "viewer"  # may read everything except patient data
    OPERATOR = "operator"  # may read and change everything


@frozen(kw_only=True)
class Principal:
    """A person or program that makes requests."""

    name: str  # recorded with each change
    role: Role

    @property
    def is_operator(self) -> bool:
        """Return whether the principal may make changes and see patient data."""
        return self.role is Role.OPERATOR


LOCAL = Principal(name="local", role=Role.OPERATOR)  # a program on this machine, if no token is configured


def set_identity(scope: Scope, principal: Principal, session: Session | None = None) -> None:
    """Store the principal of a request, and its session if it has one, in its ASGI scope."""
    cast(dict[str, Any], scope)[SCOPE_KEY] = principal
    cast(dict[str, Any], scope)[SESSION_KEY] = session


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Return the principal of a request. Raises NotAuthorizedException if it has none, because its path is public."""
    principal = cast(dict[str, Any], connection.scope).get(SCOPE_KEY)
    if principal is None:
        raise NotAuthorizedException("The request needs a token.")
    return cast(Principal, principal)


def session_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Session | None:
    """Return the session of a request from a signed-in browser, or None."""
    return cast("Session | None", cast(dict[str, Any], connection.scope).get(SESSION_KEY))


def csrf_token_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the value of the header X-CSRF-Token for changes by a page; "" if the page needs none."""
    session = session_of(connection)
    return "" if session is None else session.csrf_token


def only(role: Role) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], None]:
    """Return a guard of Litestar that refuses principals without this role. Operators may do everything."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        principal = principal_of(connection)
        if role is Role.OPERATOR and not principal.is_operator:
            raise PermissionDeniedException("This needs a token with the role operator.")

    return guard
