"""PROXY protocol, versions 1 and 2: the header in which a load balancer names the peer of a connection.

Sans-IO: `bytes_to_read` is the number of bytes that may be read without reading past the header; `feed()` receives
them. The bytes after the header belong to TLS or DICOM. (HAProxy, "The PROXY protocol", sections 2.1 and 2.2.)
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address

from dicom_adapter.api.errors import Refused

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # the first bytes of a header of version 2
SHORTEST = len(SIGNATURE)  # bytes that every header has, in both versions
LONGEST_LINE = 107  # bytes of a header of version 1, including CRLF
LONGEST_BODY = 4096  # bytes of a header of version 2 after the fixed part: addresses and extensions (TLVs)
FIXED = struct.Struct(">BBH")  # version and command, family and protocol, length of the rest
LINE = re.compile(r"PROXY (TCP4|TCP6) (\S+) (\S+) ([0-9]{1,5}) ([0-9]{1,5})")

LOCAL, PROXY = 0x20, 0x21  # the byte with version 2 and this command
UNSPECIFIED, TCP4, TCP6 = 0x00, 0x11, 0x21
ADDRESSES = {TCP4: (IPv4Address, 4), TCP6: (IPv6Address, 16)}  # type and bytes of an address


class InvalidProxyHeader(Refused):
    """A proxy sent data that is not a header of the PROXY protocol."""


class ProxyHeader:
    """Parser of one header. Not thread-safe."""

    def __init__(self) -> None:
        self.bytes_to_read = SHORTEST  # maximum number of bytes to read next; 0: the header is complete
        # Address of the peer; None: the proxy itself is the peer, or the peer is unknown
        self.source: str | None = None
        self._received = bytearray()

    @property
    def has_begun(self) -> bool:
        """True if at least one byte of the header was received."""
        return bool(self._received)

    def feed(self, data: bytes) -> None:
        """Process received bytes, at most `bytes_to_read`. Raises InvalidProxyHeader."""
        self._received += data
        if len(self._received) < SHORTEST:
            self.bytes_to_read = SHORTEST - len(self._received)
        elif self._received.startswith(SIGNATURE):
            self._parse_binary()
        elif self._received.startswith(b"PROXY "):
            self._parse_line()
        else:
            raise InvalidProxyHeader("it does not begin with a PROXY header")

    def _parse_line(self) -> None:
        if self._received.endswith(b"\r\n"):
            self.bytes_to_read = 0
            self._parse_addresses_of_line(bytes(self._received[:-2]).decode("ascii", "replace"))
        elif len(self._received) >= LONGEST_LINE:
            raise InvalidProxyHeader(f"its PROXY line has more than {LONGEST_LINE} bytes")
        else:
            self.bytes_to_read = 1 if self._received.endswith(b"\r") else 2  # at least this number of bytes is missing

    def _parse_addresses_of_line(self, line: str) -> None:
        if line == "PROXY UNKNOWN" or line.startswith("PROXY UNKNOWN "):
            return
        fields = LINE.fullmatch(line)
        try:
            if fields is None:
                raise ValueError  # noqa: TRY301 - handled like invalid addresses
            kind = IPv4Address if fields[1] == "TCP4" else IPv6Address
            self.source, _destination = str(kind(fields[2])), kind(fields[3])
        except ValueError:
            raise InvalidProxyHeader("its PROXY line is not of the form PROXY TCP4 source destination ports") from None

    def _parse_binary(self) -> None:
        body = len(SIGNATURE) + FIXED.size
        if len(self._received) < body:
            self.bytes_to_read = body - len(self._received)
            return
        command, family, length = FIXED.unpack_from(self._received, len(SIGNATURE))
        if command not in (LOCAL, PROXY):
            raise InvalidProxyHeader(f"version and command 0x{command:02X} are unknown")
        if length > LONGEST_BODY:
            raise InvalidProxyHeader(f"its PROXY header has {length} bytes, above {LONGEST_BODY}")
        self.bytes_to_read = body + length - len(self._received)
        if not self.bytes_to_read and command == PROXY:
            self._parse_addresses(family, bytes(self._received[body:]))

    def _parse_addresses(self, family: int, body: bytes) -> None:
        if family == UNSPECIFIED:
            return
        if family not in ADDRESSES:
            raise InvalidProxyHeader(f"address family and protocol 0x{family:02X} are not those of TCP")
        kind, size = ADDRESSES[family]
        if len(body) < 2 * size + 4:
            raise InvalidProxyHeader(f"its addresses have {len(body)} bytes instead of {2 * size + 4}")
        self.source = str(kind(body[:size]))
