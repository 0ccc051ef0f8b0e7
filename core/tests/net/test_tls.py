"""DICOM over TLS, on real sockets, with certificates of this run: who gets in, by which version and ciphers."""

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
    """An echo over each version that RFC 8996 leaves."""
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
def test_profiles_differ_in_what_they_tolerate(
    tmp_path: Path, profile: TlsProfile, cipher: str, is_taken: bool
) -> None:
    """Two contexts talk in memory, the client with one cipher suite of TLS 1.2."""
    pki = Pki(tmp_path / "rsa", KeyType.RSA)
    certificate, key = pki.adapter()
    client = client_context(pki.authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(cipher)
    ours = server_context(TlsConfig(certificate=certificate, key=key, profile=profile))
    assert is_taken is shakes_hands(ours, client)


def test_versions_that_are_not_safe_any_more_are_refused(tls: TlsConfig, pki: Pki) -> None:
    """RFC 8996: neither TLS 1.0 nor 1.1."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(pki.authority)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        client.minimum_version = ssl.TLSVersion.TLSv1
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    assert not shakes_hands(server_context(tls), client)


def shakes_hands(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> bool:
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


# --- who the caller is ------------------------------------------------------------------------------------------------


def test_a_certificate_says_who_calls(listen: Listen, pki: Pki) -> None:
    """Common name and DNS names go with the request of the association."""
    certificate, key = pki.adapter()
    listening = listen(tls=TlsConfig(certificate=certificate, key=key, client_ca=pki.authority))
    mine = pki.issue("ct1", "ct1.example", "ct1.local", common_name="CT one")
    echo(listening.port, client_context(pki.authority, *mine))
    [request] = listening.decisions.requests
    assert {"CT one", "ct1.example", "ct1.local"} == request.certificate_names


def test_who_shows_no_good_certificate_requests_nothing(listen: Listen, pki: Pki, tmp_path: Path) -> None:
    """With none, or one of a stranger's authority; the log says why."""
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


def test_where_certificates_are_optional_one_that_is_shown_has_to_be_good(
    listen: Listen, pki: Pki, tmp_path: Path
) -> None:
    """Without one a caller has no names; a stranger's is no better than a lie."""
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


# --- broken peers -----------------------------------------------------------------------------------------------------


def test_who_speaks_no_tls_is_told_nothing(listen: Listen, tls: TlsConfig) -> None:
    """The connection is closed, and nobody else notices."""
    listening = listen(tls=tls)
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as plain:
        plain.sendall(b"\x01\0\0\0\0\4\0\0\0\0")
        assert b"\x01" != plain.recv(1)  # perhaps an alert of TLS, no PDU
    listening.wait_for("tls_handshake_failed")


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00"])
def test_who_does_not_finish_the_handshake_is_dropped(listen: Listen, tls: TlsConfig, hello: bytes) -> None:
    """After association-timeout, whether it said nothing or the beginning of a hello; its place is free again."""
    listening = listen(tls=tls, association_timeout=0.2)
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as silent:
        silent.sendall(hello)
        assert b"" == silent.recv(1)
    listening.wait_for("tls_handshake_failed")
    wait_until(lambda: listening.server.admission.connections == 0)


def test_a_stop_does_not_wait_for_a_handshake(listen: Listen, tls: TlsConfig) -> None:
    """Nor leaves it open."""
    listening = listen(tls=tls)
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as silent:
        silent.sendall(b"\x16")
        echo_refused(listening.port)  # what came later was taken, so this one was, too
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
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RENEW_SECONDS", 0.05)


@pytest.mark.usefixtures("looks_often")
def test_renewed_certificates_are_those_of_new_connections(listen: Listen, pki: Pki, tls: TlsConfig) -> None:
    """Without a restart; who is connected goes on."""
    listening = listen(tls=tls)
    before = serial(listening.port, pki)
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as plain:
        connected = client_context(pki.authority).wrap_socket(plain, server_hostname="127.0.0.1")
        pki.adapter()
        wait_until(lambda: serial(listening.port, pki) != before)
        connected.sendall(b"\x05\0\0\0\0\4\0\0\0\0")  # a release request: answered by an abort, so somebody listens
        assert 0x07 == connected.recv(1)[0]
        connected.close()
    assert listening.logged("certificates_renewed")


@pytest.mark.usefixtures("looks_often")
def test_a_broken_new_file_changes_nothing(listen: Listen, pki: Pki, tls: TlsConfig) -> None:
    """The old certificate goes on, the log names the file, and the next good one is taken."""
    listening = listen(tls=tls)
    before = serial(listening.port, pki)
    tls.certificate.write_text("no certificate", encoding="utf-8")
    reason = listening.wait_for("certificate_renewal_failed")["reason"]
    assert str(tls.certificate) in reason
    assert before == serial(listening.port, pki)
    pki.adapter()
    wait_until(lambda: serial(listening.port, pki) != before)


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_file_is_told_with_its_name(pki: Pki, tmp_path: Path) -> None:
    """Missing, no certificate, not the key of the certificate, a key with a password, no authority."""
    certificate, key = pki.adapter()
    _other, other_key = pki.issue("other", "other.example")
    nothing, text = tmp_path / "nothing.pem", tmp_path / "text.pem"
    text.write_text("no certificate", encoding="utf-8")
    locked = tmp_path / "locked.key"
    locked.write_bytes(with_password(key.read_bytes()))

    def told(**files: Path) -> str:
        with pytest.raises(UnusableCertificate) as refusal:
            server_context(TlsConfig(**files))
        return str(refusal.value)

    assert f"the certificate {nothing} cannot be read (No such file or directory)" in told(certificate=nothing)
    assert f"the private key {nothing} cannot be read" in told(certificate=certificate, key=nothing)
    assert f"no certificate in {text}" in told(certificate=text, key=key)
    assert f"no private key in {certificate}" in told(certificate=certificate)
    assert f"the private key in {other_key} is not that of the" in told(certificate=certificate, key=other_key)
    assert f"the private key in {locked} has a password" in told(certificate=certificate, key=locked)
    assert f"no certificate of an authority in {text}" in told(certificate=certificate, key=key, client_ca=text)


def with_password(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_a_peer_that_is_not_trusted_is_told_so(listen: Listen, tls: TlsConfig) -> None:
    """`send` and `echo` say why there is no connection."""
    listening = listen(tls=tls)
    with pytest.raises(PeerUnreachable, match="its certificate is not trusted"):
        echo(listening.port, client_context())
