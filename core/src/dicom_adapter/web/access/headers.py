"""The headers of a request, in the form that access control needs: with all values of repeated headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from litestar.types import HTTPScope

Headers: TypeAlias = Mapping[bytes, Sequence[bytes]]  # the values of each header, by its name in lower case


def headers_of(scope: HTTPScope) -> Headers:
    """Return the headers of a request. Headers that it does not have are empty."""
    headers: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for name, value in scope["headers"]:
        headers[name.lower()].append(value)
    return headers


def peer_of(scope: HTTPScope) -> str:
    """Return the address of the client."""
    client = scope["client"]
    return client[0] if client else ""
