"""Address of a peer: AE title, host and port, written as AET@HOST:PORT."""

from __future__ import annotations

import errno
import ipaddress
import os
import re

from attrs import frozen

from dicom_adapter.api.errors import Refused

AE_TITLE = re.compile(r"(?=.*[^ ])[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 table 6.2-1, VR AE


class InvalidAddress(Refused):
    """The text is not an AE title or not an address of a peer."""


@frozen(kw_only=True)
class Address:
    """AE title, host and port of a peer."""

    ae_title: str
    host: str  # a name, or an IPv4 or IPv6 address without brackets
    port: int

    def __str__(self) -> str:
        return f"{self.ae_title}@{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse 'AET@HOST:PORT', with an IPv6 address in brackets. Raises InvalidAddress."""
    ae_title, at, rest = text.rpartition("@")
    host, colon, port = rest.rpartition(":")
    if not at or not colon:
        raise InvalidAddress(f"'{text}' is not of the form AET@HOST:PORT, for example LUNG@localhost:11112")
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise InvalidAddress(f"'{text}': the port '{port}' must be a number from 1 to 65535")
    return Address(ae_title=parse_ae_title(ae_title), host=_parse_host(host, text), port=int(port))


def parse_ae_title(text: str) -> str:
    """Return the AE title without leading and trailing spaces, which are not significant. Raises InvalidAddress."""
    if not AE_TITLE.fullmatch(text):
        raise InvalidAddress(f"AE title '{text}' must be 1 to 16 printable ASCII characters without a backslash")
    return text.strip(" ")


def plain_address(text: str) -> str:
    """Return the IP address of a socket without its zone. An IPv4-mapped IPv6 address is returned as IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def cannot_listen(bind: str, port: int, failure: OSError) -> str:
    """Return why a server cannot listen on an address, and the next step."""
    steps = {
        errno.EADDRINUSE: "stop the program that uses the port, or choose another port",
        errno.EADDRNOTAVAIL: "`bind` must be an address of this machine",
        errno.EACCES: "only root and processes with CAP_NET_BIND_SERVICE may use ports below 1024; choose another port",
    }
    where = f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}"
    number = failure.errno or 0
    # Not `failure.strerror`: `socket.create_server` adds the address to it.
    reason = os.strerror(number) if number else str(failure)
    return f"cannot listen on {where}: {reason}; {steps.get(number, 'choose another address')}"


def _parse_host(host: str, text: str) -> str:
    if not host or re.search(r"\s", host):
        raise InvalidAddress(f"'{text}' has no host between '@' and ':'")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise InvalidAddress(f"'{text}': '{host[1:-1]}' is not an IPv6 address") from None
    if set(host) & set("[]:"):
        raise InvalidAddress(f"'{text}': an IPv6 address must be in brackets, for example LUNG@[::1]:11112")
    return host
