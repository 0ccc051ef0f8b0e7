"""The certificates on which the connection to a platform depends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from dicom_adapter import Certificate, certificate_of_server, certificates_in_file

HTTPS_PORT = 443


def platform_certificates(
    url: str, ca_file: Path | None, client_certificate: Path | None, server_name: str | None = None
) -> Iterator[Certificate]:
    """Yield the certificates of the files, and the one that the platform at `url` presents. Connects to it."""
    yield from certificates_in_file(client_certificate, "client-certificate")
    yield from certificates_in_file(ca_file, "authority in ca-file", is_authority=True)
    address = urlsplit(url)
    if address.hostname:
        yield from certificate_of_server(address.hostname, address.port or HTTPS_PORT, server_name)
