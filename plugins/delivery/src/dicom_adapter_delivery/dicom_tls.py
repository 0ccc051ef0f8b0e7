"""TLS for associations with a DICOM node (PS3.15 annex B): the node's certificate is always verified."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from dicom_adapter import Certificate, Retriable, certificate_of_server, certificates_in_file
from dicom_adapter_delivery.dicom_settings import DicomPeerTls, DicomSettings
from dicom_adapter_delivery.tls_files import FileVersions, file_versions

# Suites of TLS 1.2 of the profile BCP 195: the recommended ones, and those that it permits for older peers.
CIPHERS = (
    "ECDHE+AESGCM:ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256"
)


def tls_connection(subject: str, connection: socket.socket, settings: DicomSettings) -> socket.socket:
    """Return the connection with TLS, or as it is if TLS is not configured. Raises Retriable."""
    tls = tls_table(settings)
    if tls is None:
        return connection
    context = _context(tls)
    connection.settimeout(settings.connect_timeout)
    try:
        return context.wrap_socket(connection, server_hostname=tls.server_name or settings.host)
    except ssl.SSLCertVerificationError as failure:
        raise Retriable(f"{subject}: its certificate is not trusted: {failure.verify_message}") from None
    except ssl.SSLError as failure:
        raise Retriable(f"{subject}: the TLS handshake failed ({failure.reason})") from None
    except (OSError, ValueError) as failure:
        raise Retriable(f"{subject}: the TLS handshake failed ({type(failure).__name__})") from None


def tls_table(settings: DicomSettings) -> DicomPeerTls | None:
    """Return the TLS settings; None for connections without TLS."""
    if isinstance(settings.tls, DicomPeerTls):
        return settings.tls
    return DicomPeerTls() if settings.tls else None


def tls_versions(settings: DicomSettings) -> FileVersions:
    """Return the versions of the TLS files: associations that were opened with others are not used any more."""
    tls = tls_table(settings)
    return () if tls is None else file_versions((tls.ca_file, tls.client_certificate, tls.client_key))


def node_certificates(settings: DicomSettings) -> Iterator[Certificate]:
    """Yield the certificates of the files, and the one that the node presents. Connects to it if TLS is configured."""
    tls = tls_table(settings)
    if tls is not None:
        yield from certificates_in_file(tls.client_certificate, "client-certificate")
        yield from certificates_in_file(tls.ca_file, "authority in ca-file", is_authority=True)
        yield from certificate_of_server(settings.host, settings.port, tls.server_name)


def _context(tls: DicomPeerTls) -> ssl.SSLContext:
    """Return the TLS context. The files are read for each association, so that renewed ones are used at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.check_hostname = tls.check_name
    if tls.ca_file is None:
        context.load_default_certs()
    else:
        ca_file = tls.ca_file
        _usable("ca-file", ca_file, lambda: context.load_verify_locations(ca_file))
    if tls.client_certificate is not None:
        certificate = tls.client_certificate

        def refuse_password() -> NoReturn:  # OpenSSL calls it if the key is encrypted
            raise Retriable("the key of client-certificate has a password; store it without one")

        _usable(
            "client-certificate",
            certificate,
            lambda: context.load_cert_chain(certificate, tls.client_key, password=refuse_password),
        )
    return context


def _usable(setting: str, path: Path, load: Callable[[], object]) -> None:
    """Load a file. Raises Retriable if it cannot be used, because it may be replaced."""
    try:
        load()
    except OSError as failure:  # also SSLError
        reason = getattr(failure, "reason", None) or failure.strerror
        raise Retriable(f"{setting} {path} cannot be used ({reason}); replace the file") from None
