"""The principal of a request: its name and its role."""

from __future__ import annotations

from enum import Enum
from typing import Any, cast

from attrs import frozen
from litestar.connection import ASGIConnection
from litestar.types import Scope

SCOPE_KEY = "principal"  # key of the ASGI scope, where the guard stores the principal


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


def set_principal(scope: Scope, principal: Principal) -> None:
    """Store the principal of a request in its ASGI scope."""
    cast(dict[str, Any], scope)[SCOPE_KEY] = principal


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Return the principal of a request that the guard has accepted."""
    return cast(Principal, cast(dict[str, Any], connection.scope)[SCOPE_KEY])
