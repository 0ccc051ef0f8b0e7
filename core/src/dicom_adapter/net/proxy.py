"""The header with which a load balancer says whose connection it hands on: PROXY protocol, versions 1 and 2.

No input or output of its own: `wanted` says how many bytes may be read without reading past the header, `feed` takes
them. What follows the header belongs to TLS or DICOM. (HAProxy, "The PROXY protocol", sections 2.1 and 2.2.)
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address

from dicom_adapter.api.errors import Refused

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # of version 2
SHORTEST = len(SIGNATURE)  # and less than any header of version 1
LONGEST_LINE = 107  # bytes of version 1, with its end
LONGEST_BODY = 4096  # bytes of version 2 behind the fixed part: addresses, and what a balancer tells besides
FIXED = struct.Struct(">BBH")  # version and command, family and protocol, length of the rest
LINE = re.compile(r"PROXY (TCP4|TCP6) (\S+) (\S+) ([0-9]{1,5}) ([0-9]{1,5})")

LOCAL, PROXY = 0x20, 0x21  # version 2 with either command
UNSPECIFIED, TCP4, TCP6 = 0x00, 0x11, 0x21
ADDRESSES = {TCP4: (IPv4Address, 4), TCP6: (IPv6Address, 16)}  # bytes of each address; source and destination, ports


class InvalidProxyHeader(Refused):
    """What a proxy sent is no header of the PROXY protocol."""


class ProxyHeader:
    """One header, as it comes."""

    def __init__(self) -> None:
        self.wanted = SHORTEST  # bytes to read next, at the most; 0: the header is complete
        self.source: str | None = None  # address of the peer; None: the connection is the proxy's own, or not known
        self._taken = bytearray()

    @property
    def has_begun(self) -> bool:
        """Whether anything came."""
        return bool(self._taken)

    def feed(self, data: bytes) -> None:
        """Take what was read. Raises InvalidProxyHeader."""
        self._taken += data
        if len(self._taken) < SHORTEST:
            self.wanted = SHORTEST - len(self._taken)
        elif self._taken.startswith(SIGNATURE):
            self._take_binary()
        elif self._taken.startswith(b"PROXY "):
            self._take_line()
        else:
            raise InvalidProxyHeader("it begins with no PROXY header")

    def _take_line(self) -> None:
        if self._taken.endswith(b"\r\n"):
            self.wanted = 0
            self._read_line(bytes(self._taken[:-2]).decode("ascii", "replace"))
        elif len(self._taken) >= LONGEST_LINE:
            raise InvalidProxyHeader(f"its PROXY line has more than {LONGEST_LINE} bytes")
        else:
            self.wanted = 1 if self._taken.endswith(b"\r") else 2  # the least that is missing

    def _read_line(self, line: str) -> None:
        if line == "PROXY UNKNOWN" or line.startswith("PROXY UNKNOWN "):
            return
        found = LINE.fullmatch(line)
        try:
            if found is None:
                raise ValueError  # noqa: TRY301 - the same as addresses that are none
            kind = IPv4Address if found[1] == "TCP4" else IPv6Address
            self.source, _destination = str(kind(found[2])), kind(found[3])
        except ValueError:
            raise InvalidProxyHeader("its PROXY line is not of the form PROXY TCP4 source destination ports") from None

    def _take_binary(self) -> None:
        body = len(SIGNATURE) + FIXED.size
        if len(self._taken) < body:
            self.wanted = body - len(self._taken)
            return
        command, family, length = FIXED.unpack_from(self._taken, len(SIGNATURE))
        if command not in (LOCAL, PROXY):
            raise InvalidProxyHeader(f"version and command 0x{command:02X} are not known")
        if length > LONGEST_BODY:
            raise InvalidProxyHeader(f"its PROXY header has {length} bytes, above {LONGEST_BODY}")
        self.wanted = body + length - len(self._taken)
        if not self.wanted and command == PROXY:
            self._read_addresses(family, bytes(self._taken[body:]))

    def _read_addresses(self, family: int, body: bytes) -> None:
        if family == UNSPECIFIED:
            return
        if family not in ADDRESSES:
            raise InvalidProxyHeader(f"address family and protocol 0x{family:02X} are not those of TCP")
        kind, size = ADDRESSES[family]
        if len(body) < 2 * size + 4:
            raise InvalidProxyHeader(f"its addresses have {len(body)} bytes instead of {2 * size + 4}")
        self.source = str(kind(body[:size]))
