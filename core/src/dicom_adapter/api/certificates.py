"""The time at which certificates expire, read from PEM files or a server: `check`, `status` and `/health` show it."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from attrs import field, frozen

PROBE_SECONDS = 3.0  # time limit for a connection to a server; a platform that is down is reported elsewhere
PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
SEQUENCE, CONTEXT_0, UTC_TIME, GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18  # tags of DER (X.690)


@frozen(kw_only=True)
class Certificate:
    """A certificate on whose validity connections depend."""

    subject: str  # text for operators, such as "client certificate /etc/adapter.pem", "certificate of platform:8443"
    expires_at: datetime  # time in UTC
    is_authority: bool = False  # True for a certificate in a file of trusted authorities
    name: bytes = field(default=b"", repr=False)  # distinguished name in DER, to find a newer certificate of this name


def certificates_in_file(path: Path | None, subject: str, *, is_authority: bool = False) -> list[Certificate]:
    """Return the certificates of a PEM file; an empty list if there is no file, or if it cannot be used.

    `subject`, such as "client certificate", becomes the text before the path. If authorities have the same name, only
    the certificate that expires last is returned: it has replaced the other certificates.
    """
    if path is None:
        return []
    try:
        encoded = PEM.findall(path.read_bytes())
    except OSError:
        return []  # the start of the service, or the submitter, reports this problem
    entries = (_read(_decode(text), f"{subject} {path}", is_authority=is_authority) for text in encoded)
    certificates = [certificate for certificate in entries if certificate is not None]
    if is_authority:
        certificates.sort(key=lambda certificate: certificate.expires_at)
        certificates = list({certificate.name: certificate for certificate in certificates}.values())
    return certificates


def certificate_of_server(host: str, port: int, server_name: str | None = None) -> list[Certificate]:
    """Return the certificate that a TLS server presents; an empty list if the server does not answer.

    The certificate is not verified: an expired certificate is returned, too. Only the TLS handshake is done.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])  # gRPC servers require "h2"
    try:
        with (
            socket.create_connection((host, port), timeout=PROBE_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=server_name or host) as secured,
        ):
            content = secured.getpeercert(binary_form=True)
    except (OSError, ValueError):  # ValueError: the name is not a valid host name
        return []
    read = _read(content or b"", f"certificate of {host}:{port}", is_authority=False)
    return [] if read is None else [read]


def _decode(text: bytes) -> bytes:
    """Return the content of a certificate in PEM; empty if the text is not base64."""
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""


def _read(content: bytes, subject: str, *, is_authority: bool) -> Certificate | None:
    """Return a certificate with its name and the end of its validity (RFC 5280 section 4.1); None for other content."""
    try:
        [(_tag, certificate)] = _elements(content)
        (_tag, to_be_signed), *_signature = _elements(certificate)
        # Without the optional field for the version (CONTEXT_0), all fields have fixed places.
        fields = [element for element in _elements(to_be_signed) if element[0] != CONTEXT_0]
        _serial, _algorithm, _issuer, (_tag, validity), (_tag, name), *_rest = fields
        _begin, (tag, end) = _elements(validity)
        return Certificate(subject=subject, expires_at=_time(tag, end), is_authority=is_authority, name=name)
    except (ValueError, IndexError):
        return None


def _elements(content: bytes) -> Sequence[tuple[int, bytes]]:
    """Return the tags and contents of consecutive elements of DER. Raises ValueError or IndexError."""

    def each() -> Iterator[tuple[int, bytes]]:
        at = 0
        while at < len(content):
            tag, length, at = content[at], content[at + 1], at + 2
            if length >= 0x80:
                count = length - 0x80
                length, at = int.from_bytes(content[at : at + count], "big"), at + count
            if at + length > len(content):
                raise ValueError("an element is longer than its content")
            yield tag, content[at : at + length]
            at += length

    return list(each())


def _time(tag: int, content: bytes) -> datetime:
    """Return the time in an element of DER. Raises ValueError if the element is not a time."""
    text = content.decode("ascii")
    if tag == UTC_TIME:  # two digits: 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
