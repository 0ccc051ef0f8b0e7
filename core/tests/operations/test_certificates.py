"""Certificates that expire: their dates, and when they are a problem."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from socket import create_server
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from dicom_adapter import Certificate, Submitter, certificate_of_server, certificates_in_file
from dicom_adapter.cli import app
from dicom_adapter.ledger.health import PartState
from dicom_adapter.operations.certificates import assess_certificates, certificates_of_submitters, describe
from dicom_adapter.runtime.watch import PartFinding
from support.certificates import Pki

NOW = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)


def certificate(days: float, subject: str = "certificate a.pem", *, is_authority: bool = False) -> Certificate:
    return Certificate(subject=subject, expires_at=NOW + timedelta(days=days), is_authority=is_authority)


def pem(expires_at: datetime, name: str = "name") -> bytes:
    """Return a self-signed certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(1990, 1, 1, tzinfo=timezone.utc))
        .not_valid_after(expires_at)
        .sign(key, hashes.SHA256())
    )
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize("year", [1999, 2026, 2049, 2050, 9999])
def test_the_end_of_the_validity_is_read(tmp_path: Path, year: int) -> None:
    """Until 2049 a certificate has a UTCTime, after that a GeneralizedTime (RFC 5280 section 4.1.2.5).

    Verified to fail when only one of these types is read.
    """
    expires_at = datetime(year, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
    (tmp_path / "a.pem").write_bytes(b"text\n" + pem(expires_at))
    [certificate] = certificates_in_file(tmp_path / "a.pem", "certificate")
    assert (expires_at, f"certificate {tmp_path / 'a.pem'}") == (certificate.expires_at, certificate.subject)


def test_all_certificates_of_a_chain_are_read(tmp_path: Path) -> None:
    dates = [NOW, NOW + timedelta(days=9)]
    (tmp_path / "chain.pem").write_bytes(b"".join(map(pem, dates)))
    certificates = certificates_in_file(tmp_path / "chain.pem", "certificate")
    assert dates == [certificate.expires_at for certificate in certificates]


def test_the_old_certificate_of_a_renewed_authority_is_ignored(tmp_path: Path) -> None:
    """A file of authorities has both certificates for a while. Verified to fail when both are returned."""
    old, new, other = NOW, NOW + timedelta(days=900), NOW + timedelta(days=400)
    (tmp_path / "ca.pem").write_bytes(pem(old, "A") + pem(new, "A") + pem(other, "B"))
    certificates = certificates_in_file(tmp_path / "ca.pem", "authority", is_authority=True)
    assert {new, other} == {each.expires_at for each in certificates}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no certificate",
        b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nMIQ=\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----",
    ],
)
def test_no_certificates_are_returned_for_a_file_without_certificates(tmp_path: Path, content: bytes) -> None:
    """The service reports the invalid file at its start, or the submitter reports it."""
    (tmp_path / "a.pem").write_bytes(content)
    assert [] == certificates_in_file(tmp_path / "a.pem", "certificate")
    assert [] == certificates_in_file(tmp_path / "missing.pem", "certificate")
    assert [] == certificates_in_file(None, "certificate")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, datetime]]:
    """A TLS server that answers one connection: its port, and the end of its certificate's validity."""
    expires_at = datetime(2020, 1, 1, tzinfo=timezone.utc)  # an expired certificate can be read, too
    issued = trustme.CA().issue_cert("127.0.0.1", not_after=expires_at, not_before=expires_at - timedelta(days=1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    with create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _address = listening.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                assert b"" == secured.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1], expires_at
        thread.join()


def test_the_certificate_of_a_server_is_read(server: tuple[int, datetime]) -> None:
    port, expires_at = server
    [certificate] = certificate_of_server("127.0.0.1", port)
    assert (expires_at, f"certificate of 127.0.0.1:{port}") == (certificate.expires_at, certificate.subject)


def test_a_server_that_does_not_answer_has_no_certificate() -> None:
    with create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert [] == certificate_of_server("127.0.0.1", port)
    assert [] == certificate_of_server("a" * 70, port)


@pytest.mark.parametrize(
    ("days", "is_authority", "state"),
    [
        (30.5, False, PartState.OK),
        (29.5, False, PartState.DEGRADED),
        (0.5, False, PartState.DEGRADED),
        (-0.5, False, PartState.FAILING),
        (29.5, True, PartState.DEGRADED),
        (-0.5, True, PartState.DEGRADED),
    ],
)
def test_a_certificate_is_degraded_thirty_days_before_it_expires(
    days: float, is_authority: bool, state: PartState
) -> None:
    """It is failing when it has expired. An authority stays degraded: connections may need only other authorities."""
    finding = assess_certificates([certificate(900), certificate(days, is_authority=is_authority)], NOW)
    assert state is finding.state
    assert bool(finding.reason) is (state is not PartState.OK)


def test_the_reason_names_each_certificate_and_the_days_left() -> None:
    reason = assess_certificates([certificate(12.5), certificate(-1, "certificate b.pem"), certificate(99)], NOW).reason
    assert "certificate b.pem: expired on 2026-11-29; certificate a.pem: 12 days left (until 2026-12-13)" == reason
    assert "certificate a.pem: 1 day left (until 2026-12-02)" == describe(certificate(1.5), NOW)
    assert PartFinding() == assess_certificates([], NOW)


class Reporting:
    """A submitter that reports what it was created with."""

    def __init__(self, reported: Any) -> None:
        self.reported = reported

    def certificates(self) -> Any:
        if isinstance(self.reported, BaseException):
            raise self.reported
        return self.reported


def test_a_submitter_that_fails_does_not_hide_the_certificates_of_others() -> None:
    """The default method of `Submitter` returns no certificates.

    Verified to fail when the exception is not caught.
    """
    submitters: dict[str, Any] = {
        "a": Reporting(ValueError("secret")),
        "b": Reporting([certificate(3)]),
        "c": Reporting(SystemExit()),
        "d": Reporting(3),
    }
    failed: list[str] = []
    certificates = certificates_of_submitters(submitters, lambda name, _error: failed.append(name))
    assert ["a", "c", "d"] == failed
    assert ["submitter b: certificate a.pem"] == [each.subject for each in certificates]
    assert () == Submitter.certificates(None)  # type: ignore[arg-type] # the default method does not use `self`


def test_check_shows_the_days_left(tmp_path: Path, memory_submitter: None) -> None:
    """The certificate that expires first is shown first. The exit status is 0 if no certificate has expired."""
    pki = Pki(tmp_path)
    own, key = pki.adapter()
    text = f'''
[dicom.tls]
certificate = "{own}"
key = "{key}"
client-ca = "{pki.authority}"
[storage]
path = "data"
[submitters.x]
type = "memory"
[ae-titles.A]
processor = "by-study"
settings = {{ pipeline-x = "1" }}
'''
    (tmp_path / "adapter.toml").write_text(text)
    shown = CliRunner().invoke(app, ["check", str(tmp_path / "adapter.toml")])
    assert 0 == shown.exit_code, shown.output
    assert f"dicom.tls: certificate {own}: " in shown.output
    assert f"dicom.tls: authority in {pki.authority}: " in shown.output
    listed = json.loads(CliRunner().invoke(app, ["check", str(tmp_path / "adapter.toml"), "--json"]).stdout)
    assert {"subject", "expiresAt", "daysLeft"} == listed["certificates"][0].keys()
    assert sorted(each["daysLeft"] for each in listed["certificates"]) == [
        each["daysLeft"] for each in listed["certificates"]
    ]
