"""Recognize requests that are sent by web pages of other sites: a browser on this machine also runs such pages.

A page cannot set the headers Host, Origin and Sec-Fetch-Site. Without the consent of the server, a page can send only
requests with a simple content type (Fetch standard, section 2.2.2). The content type of JSON is not simple, so a page
of another site cannot send JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

AUTHORITY = re.compile(  # RFC 3986 section 3.2, without a user
    r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._~-]+))(?::(?P<port>[0-9]{0,5}))?"
)
ORIGIN = re.compile("(?P<scheme>https?)://(?P<authority>.+)")
DEFAULT_PORTS = {"http": "80", "https": "443"}
OWN_SITES = frozenset({b"same-origin", b"none"})  # `none`: the user entered the address, or opened a bookmark
JSON_TYPE = re.compile(rb"application/(?:json|[a-z0-9!#$&^_.+-]+\+json)")


def is_local(host: bytes) -> bool:
    """Return whether a Host header names localhost or a loopback address."""
    match = AUTHORITY.fullmatch(host.decode("latin-1").lower())
    if match is None:
        return False
    try:
        if match["ipv6"]:
            return IPv6Address(match["ipv6"]).is_loopback
        return match["name"] == "localhost" or ip_address(match["name"]).is_loopback
    except ValueError:
        return False


def is_foreign(host: bytes, origins: Iterable[bytes], sites: Iterable[bytes]) -> bool:
    """Return whether the request comes from a web page of another server.

    `host`, `origins`, `sites`: the values of the headers Host, Origin and Sec-Fetch-Site. Programs other than browsers
    do not send the last two.
    """
    return any(site not in OWN_SITES for site in sites) or any(not _is_origin(origin, host) for origin in origins)


def _is_origin(origin: bytes, host: bytes) -> bool:
    """Return whether an Origin header has the host and port of the Host header. A proxy may have changed the scheme."""
    match = ORIGIN.fullmatch(origin.decode("latin-1").lower())
    if match is None:
        return False
    default_port = DEFAULT_PORTS[match["scheme"]]
    requested = _name_and_port(host.decode("latin-1").lower(), default_port)
    return requested is not None and requested == _name_and_port(match["authority"], default_port)


def _name_and_port(authority: str, default_port: str) -> tuple[str, str] | None:
    match = AUTHORITY.fullmatch(authority)
    return None if match is None else (match["ipv6"] or match["name"], match["port"] or default_port)


def is_json(content_type: bytes) -> bool:
    """Return whether a Content-Type header names JSON, or a type whose suffix is `+json`."""
    media_type, _, _parameters = content_type.partition(b";")
    return JSON_TYPE.fullmatch(media_type.strip(b" \t").lower()) is not None
