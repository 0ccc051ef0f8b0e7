"""TLS contexts according to the profiles of PS3.15 annex B, and their renewal when certificate files change.

Both profiles support TLS 1.3 and 1.2, the only versions that RFC 8996 allows, with the cipher suites of RFC 9325
section 4.2. `bcp195` also accepts older suites, for peers that support no others. These suites also have forward
secrecy: a stolen private key does not decrypt recorded traffic. Neither profile has suites with finite-field DHE,
because RFC 9325 advises against them.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, NoReturn

import structlog

from dicom_adapter.api.errors import Refused
from dicom_adapter.config.listening import ClientCertificates, TlsConfig, TlsProfile

log = structlog.get_logger("dicom_adapter.net")

# Suites of TLS 1.2 by OpenSSL's names, in order of preference. All suites of TLS 1.3 are enabled by default.
RECOMMENDED = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
TOLERATED = (
    "ECDHE-ECDSA-AES256-SHA384",
    "ECDHE-RSA-AES256-SHA384",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
)
CIPHERS = {TlsProfile.BCP195: RECOMMENDED + TOLERATED, TlsProfile.NON_DOWNGRADING: RECOMMENDED}

# Of each file: time of the last change, size and inode; None if it cannot be read
FileStamps = tuple[tuple[int, int, int] | None, ...]


class UnusableCertificate(Refused):
    """A certificate or private key file cannot be used."""


def server_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return the TLS context of the acceptor. Raises UnusableCertificate, which names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(CIPHERS[tls.profile]))
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # No session tickets: only the receiver process that issued a ticket accepts it. Associations are long, so full
    # handshakes are rare.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    _load_certificate(context, tls.certificate, tls.key or tls.certificate)
    if tls.client_ca is not None:
        _load_authorities(context, tls.client_ca)
        is_optional = tls.client_certificates is ClientCertificates.OPTIONAL
        context.verify_mode = ssl.CERT_OPTIONAL if is_optional else ssl.CERT_REQUIRED
    return context


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def refuse_password() -> NoReturn:  # OpenSSL calls it if the key is encrypted
        raise UnusableCertificate(f"TLS: the private key in {key} has a password; store it without one")

    _require_readable(certificate, "certificate")
    _require_readable(key, "private key")
    try:
        context.load_cert_chain(certificate, key, password=refuse_password)
    except OSError as failure:  # also SSLError
        reason = _reason(failure)
        if reason == "KEY_VALUES_MISMATCH":
            why = f"the private key in {key} does not belong to the certificate in {certificate}; renew both"
        else:
            why = f"no certificate in {certificate}, or no private key in {key}; both must be in PEM format"
        raise UnusableCertificate(f"TLS: {why} ({reason})") from None


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _require_readable(path, "file of authorities")
    try:
        context.load_verify_locations(path)
    except OSError as failure:  # also SSLError
        why = f"no certificate of an authority in {path}, which must be in PEM format"
        raise UnusableCertificate(f"TLS: {why} ({_reason(failure)})") from None


def _reason(failure: OSError) -> str:
    return str(getattr(failure, "reason", None) or failure.strerror)


def _require_readable(path: Path, kind: str) -> None:
    """Raise UnusableCertificate with the file's name, which OpenSSL does not report."""
    try:
        path.open("rb").close()
    except OSError as failure:
        why = f"the {kind} {path} cannot be read ({failure.strerror})"
        raise UnusableCertificate(f"TLS: {why}; it must exist and be readable for this user") from None


def client_context(
    authorities: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return the TLS context of `send` and `echo`, which verifies the peer's certificate and host name.

    `authorities`: certificates to trust instead of those of the system. Raises UnusableCertificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(CIPHERS[TlsProfile.BCP195]))
    if authorities is None:
        context.load_default_certs()
    else:
        _load_authorities(context, authorities)
    if certificate is not None:
        _load_certificate(context, certificate, key or certificate)
    return context


def certificate_names(certificate: Any) -> frozenset[str]:
    """Return the common names and DNS names of a result of `SSLSocket.getpeercert`."""
    if not certificate:
        return frozenset()
    subject = (pair for part in certificate.get("subject", ()) for pair in part)
    common = {value for name, value in subject if name == "commonName"}
    return frozenset(common | {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"})


class Certificates:
    """The TLS context for new connections. `renew` is called on one thread at a time."""

    def __init__(self, tls: TlsConfig) -> None:
        """Load the files. Raises UnusableCertificate."""
        self._tls = tls
        self._stamps = self._read_stamps()
        self.context = server_context(tls)

    def renew(self) -> None:
        """Load changed files. Open connections are not affected. If the files are not usable, keep the context."""
        # Read the stamps before the files are loaded: a change during the load is noticed at the next call.
        stamps = self._read_stamps()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self.context = server_context(self._tls)
        except UnusableCertificate as refusal:
            log.error("certificate_renewal_failed", reason=str(refusal))
        else:
            log.info("certificates_renewed", certificate=str(self._tls.certificate))

    def _read_stamps(self) -> FileStamps:
        return tuple(_stamp(path) for path in (self._tls.certificate, self._tls.key, self._tls.client_ca) if path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return values that change when a file is written or replaced."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
