"""DICOM over TLS on real sockets, with new certificates: access control, protocol versions, ciphers, renewal."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from trustme import KeyType

from dicom_adapter.api.errors import DicomAdapterError
from dicom_adapter.config.listening import ClientCertificates, TlsConfig, TlsProfile
from dicom_adapter.net import scu, server
from dicom_adapter.net.address import Address
from dicom_adapter.net.link import PeerUnreachable
from dicom_adapter.net.tls import UnusableCertificate, client_context, server_context
from support.certificates import Pki
from support.listening import Listen, wait_until

SECONDS = 30


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


@pytest.fixture
def tls(pki: Pki) -> TlsConfig:
    certificate, key = pki.adapter()
    return TlsConfig(certificate=certificate, key=key)


def address(port: int) -> Address:
    return Address(ae_title="LUNG", host="127.0.0.1", port=port)


def echo(port: int, context: ssl.SSLContext) -> None:
    scu.echo(address(port), "CT1", SECONDS, context)


@pytest.mark.parametrize("profile", TlsProfile)
def test_both_profiles_answer_over_tls_1_2_and_1_3(listen: Listen, pki: Pki, profile: TlsProfile) -> None:
    """A C-ECHO succeeds over each version that RFC 8996 allows."""
    certificate, key = pki.adapter()
    listening = listen(tls=TlsConfig(certificate=certificate, key=key, profile=profile))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client_context(pki.authority)
        context.minimum_version = context.maximum_version = version
        echo(listening.port, context)
    assert 2 == len(listening.decisions.requests)


AEAD, CBC, WITHOUT_SECRECY = "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-SHA384", "AES256-GCM-SHA384"


@pytest.mark.parametrize(
    ("profile", "cipher", "is_taken"),
    [
        (TlsProfile.BCP195, AEAD, True),
        (TlsProfile.BCP195, CBC, True),
        (TlsProfile.BCP195, WITHOUT_SECRECY, False),
        (TlsProfile.NON_DOWNGRADING, AEAD, True),
        (TlsProfile.NON_DOWNGRADING, CBC, False),
        (TlsProfile.NON_DOWNGRADING, WITHOUT_SECRECY, False),
    ],
)
def test_profiles_accept_different_cipher_suites(
    tmp_path: Path, profile: TlsProfile, cipher: str, is_taken: bool
) -> None:
    """Two TLS contexts are connected in memory; the client offers one cipher suite of TLS 1.2."""
    pki = Pki(tmp_path / "rsa", KeyType.RSA)
    certificate, key = pki.adapter()
    client = client_context(pki.authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(cipher)
    ours = server_context(TlsConfig(certificate=certificate, key=key, profile=profile))
    assert is_taken is handshake_succeeds(ours, client)


def test_insecure_versions_are_refused(tls: TlsConfig, pki: Pki) -> None:
    """RFC 8996 forbids TLS 1.0 and 1.1."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(pki.authority)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        client.minimum_version = ssl.TLSVersion.TLSv1
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    assert not handshake_succeeds(server_context(tls), client)


def handshake_succeeds(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> bool:
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        ours.wrap_bio(to_us, to_them, server_side=True),
        theirs.wrap_bio(to_them, to_us, server_hostname="127.0.0.1"),
    ]
    for _round in range(5):
        for side in list(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
            sides.remove(side)
    return not sides


# --- access control ---------------------------------------------------------------------------------------------------


def test_the_names_of_a_certificate_are_those_of_the_requestor(listen: Listen, pki: Pki) -> None:
    """The association request has the common name and the DNS names."""
    certificate, key = pki.adapter()
    listening = listen(tls=TlsConfig(certificate=certificate, key=key, client_ca=pki.authority))
    mine = pki.issue("ct1", "ct1.example", "ct1.local", common_name="CT one")
    echo(listening.port, client_context(pki.authority, *mine))
    [request] = listening.decisions.requests
    assert {"CT one", "ct1.example", "ct1.local"} == request.certificate_names


def test_a_client_without_a_valid_certificate_cannot_request_an_association(
    listen: Listen, pki: Pki, tmp_path: Path
) -> None:
    """The client has no certificate, or a certificate of an unknown authority. The log has the reason."""
    certificate, key = pki.adapter()
    listening = listen(tls=TlsConfig(certificate=certificate, key=key, client_ca=pki.authority))
    stranger = Pki(tmp_path / "stranger").issue("x", "ct1.example")
    for context in (client_context(pki.authority), client_context(pki.authority, *stranger)):
        with pytest.raises(DicomAdapterError):
            echo(listening.port, context)
    listening.wait_for("tls_handshake_failed", times=2)
    reasons = {entry["reason"] for entry in listening.logged("tls_handshake_failed")}
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reasons
    assert any("certificate is not valid" in reason for reason in reasons)
    assert [] == listening.decisions.requests


def test_an_optional_certificate_must_be_valid(listen: Listen, pki: Pki, tmp_path: Path) -> None:
    """A client without a certificate has no names. A client with a certificate of an unknown authority is refused."""
    certificate, key = pki.adapter()
    optional = ClientCertificates.OPTIONAL
    listening = listen(
        tls=TlsConfig(certificate=certificate, key=key, client_ca=pki.authority, client_certificates=optional)
    )
    echo(listening.port, client_context(pki.authority))
    stranger = Pki(tmp_path / "stranger").issue("x", "ct1.example")
    with pytest.raises(DicomAdapterError):
        echo(listening.port, client_context(pki.authority, *stranger))
    assert [frozenset()] == [request.certificate_names for request in listening.decisions.requests]


# --- faulty peers -----------------------------------------------------------------------------------------------------


def test_a_client_without_tls_is_disconnected(listen: Listen, tls: TlsConfig) -> None:
    """The client receives no DICOM PDU."""
    listening = listen(tls=tls)
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as plain:
        plain.sendall(b"\x01\0\0\0\0\4\0\0\0\0")
        assert b"\x01" != plain.recv(1)  # perhaps a TLS alert, but no PDU
    listening.wait_for("tls_handshake_failed")


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00"])
def test_an_unfinished_handshake_is_disconnected(listen: Listen, tls: TlsConfig, hello: bytes) -> None:
    """After association-timeout without data or with an incomplete ClientHello, the slot is free again."""
    listening = listen(tls=tls, association_timeout=0.2)
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as silent:
        silent.sendall(hello)
        assert b"" == silent.recv(1)
    listening.wait_for("tls_handshake_failed")
    wait_until(lambda: listening.server.admission.connections == 0)


def test_a_stop_does_not_wait_for_a_handshake(listen: Listen, tls: TlsConfig) -> None:
    """A stop closes the connection."""
    listening = listen(tls=tls)
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as silent:
        silent.sendall(b"\x16")
        echo_refused(listening.port)  # a later connection was accepted, so that the first was accepted, too
        listening.server.stop(0)
        assert b"" == silent.recv(1)


def echo_refused(port: int) -> None:
    with pytest.raises(PeerUnreachable):
        echo(port, client_context())


# --- renewal ----------------------------------------------------------------------------------------------------------


def serial(port: int, pki: Pki) -> object:
    with (
        socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
        client_context(pki.authority).wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
    ):
        certificate = encrypted.getpeercert()
        assert certificate
        return certificate["serialNumber"]


@pytest.fixture
def frequent_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RENEW_SECONDS", 0.05)


@pytest.mark.usefixtures("frequent_renewal")
def test_renewed_certificates_are_used_for_new_connections(listen: Listen, pki: Pki, tls: TlsConfig) -> None:
    """No restart is needed. Open connections continue."""
    listening = listen(tls=tls)
    before = serial(listening.port, pki)
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as plain:
        connected = client_context(pki.authority).wrap_socket(plain, server_hostname="127.0.0.1")
        pki.adapter()
        wait_until(lambda: serial(listening.port, pki) != before)
        connected.sendall(b"\x05\0\0\0\0\4\0\0\0\0")  # a release request, answered by an abort
        assert 0x07 == connected.recv(1)[0]
        connected.close()
    assert listening.logged("certificates_renewed")


@pytest.mark.usefixtures("frequent_renewal")
def test_a_broken_new_file_changes_nothing(listen: Listen, pki: Pki, tls: TlsConfig) -> None:
    """The old certificate stays in use, the log names the file, and the next valid file is used."""
    listening = listen(tls=tls)
    before = serial(listening.port, pki)
    tls.certificate.write_text("no certificate", encoding="utf-8")
    reason = listening.wait_for("certificate_renewal_failed")["reason"]
    assert str(tls.certificate) in reason
    assert before == serial(listening.port, pki)
    pki.adapter()
    wait_until(lambda: serial(listening.port, pki) != before)


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_unusable_file_is_reported_by_name(pki: Pki, tmp_path: Path) -> None:
    """A file is missing, is not a certificate, key of the certificate or authority, or is a key with a password."""
    certificate, key = pki.adapter()
    _other, other_key = pki.issue("other", "other.example")
    nothing, text = tmp_path / "nothing.pem", tmp_path / "text.pem"
    text.write_text("no certificate", encoding="utf-8")
    locked = tmp_path / "locked.key"
    locked.write_bytes(with_password(key.read_bytes()))

    def refusal_of(**files: Path) -> str:
        with pytest.raises(UnusableCertificate) as refusal:
            server_context(TlsConfig(**files))
        return str(refusal.value)

    assert f"the certificate {nothing} cannot be read (No such file or directory)" in refusal_of(certificate=nothing)
    assert f"the private key {nothing} cannot be read" in refusal_of(certificate=certificate, key=nothing)
    assert f"no certificate in {text}" in refusal_of(certificate=text, key=key)
    assert f"no private key in {certificate}" in refusal_of(certificate=certificate)
    assert f"the private key in {other_key} does not belong to the" in refusal_of(
        certificate=certificate, key=other_key
    )
    assert f"the private key in {locked} has a password" in refusal_of(certificate=certificate, key=locked)
    assert f"no certificate of an authority in {text}" in refusal_of(certificate=certificate, key=key, client_ca=text)


def with_password(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_an_untrusted_peer_is_reported(listen: Listen, tls: TlsConfig) -> None:
    """`send` and `echo` report why there is no connection."""
    listening = listen(tls=tls)
    with pytest.raises(PeerUnreachable, match="its certificate is not trusted"):
        echo(listening.port, client_context())
