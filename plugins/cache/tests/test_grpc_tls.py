"""TLS of the gRPC API: certificate, renewal and unusable files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import trustme

from dicom_adapter import Refused
from dicom_adapter_cache.wire import cache_pb2 as pb
from dicom_adapter_cache.wire.cache_pb2_grpc import CacheStub

LIMIT_S = 20.0  # time limit for a call
Serve = Callable[..., SimpleNamespace]


def test_the_connection_can_be_encrypted(serve: Serve, tmp_path: Path) -> None:
    """With a certificate the server accepts TLS only."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    served = serve(certificate_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem")
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with grpc.secure_channel(served.address, credentials) as channel:
        assert [] == list(CacheStub(channel).SearchStudies(pb.SearchStudiesRequest()))
    with pytest.raises(grpc.RpcError):
        list(served.stub.SearchStudies(pb.SearchStudiesRequest()))


def write_certificate(folder: Path, *, with_key: bool = True) -> bytes:
    """Write a new certificate and its key to the files of the server. Return the certificate of its authority."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    if with_key:
        issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return authority.cert_pem.bytes()


def search(address: str, authority: bytes) -> list[Any]:
    """Search over a new connection that trusts this authority only."""
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority)) as channel:
        return list(CacheStub(channel).SearchStudies(pb.SearchStudiesRequest(), timeout=LIMIT_S))


def test_new_connections_use_a_renewed_certificate(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Open connections continue. The server is not restarted.

    Verified to fail when the files are read only at the start.
    """
    old = write_certificate(tmp_path)
    served = serve(certificate_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem")
    with grpc.secure_channel(served.address, grpc.ssl_channel_credentials(old)) as channel:
        assert [] == list(CacheStub(channel).SearchStudies(pb.SearchStudiesRequest()))
        new = write_certificate(tmp_path)
        assert [] == search(served.address, new)
        assert [] == list(CacheStub(channel).SearchStudies(pb.SearchStudiesRequest()))
    with pytest.raises(grpc.RpcError):
        search(served.address, old)
    assert 1 == capsys.readouterr().out.count("certificates_renewed")


@pytest.mark.parametrize("damage", ["mismatch", "missing", "damaged"])
def test_the_old_certificate_stays_in_use_if_the_new_files_cannot_be_used(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """The failure is logged once for each change. Files that are correct afterwards are used.

    Verified to fail when the new files are not checked: the failure is not logged.
    """
    old = write_certificate(tmp_path)
    served = serve(certificate_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem")
    if damage == "mismatch":
        write_certificate(tmp_path, with_key=False)
    elif damage == "missing":
        (tmp_path / "key.pem").unlink()
    else:
        (tmp_path / "cert.pem").write_text("no certificate", encoding="utf-8")
    assert [[], []] == [search(served.address, old) for _number in range(2)]
    assert 1 == capsys.readouterr().out.count("certificate_renewal_failed")
    new = write_certificate(tmp_path)
    assert [] == search(served.address, new)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("key.pem", None, r"key\.pem: No such file"),
        ("cert.pem", "no certificate", r"no certificate in .*cert\.pem"),
        ("key.pem", "no key", r"no private key in .*key\.pem"),
    ],
)
def test_unusable_files_are_refused_at_the_start(
    serve: Serve, tmp_path: Path, name: str, content: str | None, reason: str
) -> None:
    """The error names the AE title, the file and the reason."""
    write_certificate(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(Refused, match=f"gRPC of AE title 'CACHE': .*{reason}"):
        serve(certificate_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem")
