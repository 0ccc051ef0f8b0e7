"""Connections of the `clara-rest` submitter: redirects, reuse, timeouts, headers, TLS."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import (
    Job,
    Permanent,
    Retriable,
    Upload,
)

TIMEOUT_S = 0.5  # timeout of calls that have to time out
MAX_S = 30.0  # maximum duration of a call on a busy machine
GOOD: dict[str, Any] = {"jobId": 32 * "1", "payloadId": 32 * "2", "state": "pending", "status": "healthy"}
Against = Callable[..., Any]
MakeUpload = Callable[..., Upload]


def answer(body: bytes | dict[str, Any], status: str = "201 Created", *more: str, length: int | None = None) -> bytes:
    """Return the bytes of a response; `more`: headers instead of the JSON content type."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = "".join(f"{line}\r\n" for line in (*(more or ["Content-Type: application/json"]),))
    size = len(data) if length is None else length
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {size}\r\n\r\n".encode() + data


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_a_redirect_is_not_followed(against: Against, status: str, known: Job) -> None:
    """A redirect could send patient data and the token to another server."""
    elsewhere = against(answer(GOOD))
    port = elsewhere.hostile.port
    script = answer(b"", status, f"Location: http://127.0.0.1:{port}/v1/jobs")
    with pytest.raises(Permanent, match=f"redirects .* to http://127.0.0.1:{port}/v1/jobs, which is not followed"):
        against(script).create_job(known)
    assert 0 == elsewhere.hostile.connections


def test_connections_are_reused(against: Against, known: Job) -> None:
    """Several calls use one connection."""
    submitter = against(*[answer(GOOD)] * 5)
    for _ in range(5):
        submitter.create_job(known)
    assert 1 == submitter.hostile.connections


def test_connections_are_not_reused_if_disabled(against: Against, known: Job) -> None:
    """With keep-alive-connections = 0 each call has its own connection."""
    submitter = against(*[answer(GOOD)] * 3, keep_alive_connections=0)
    for _ in range(3):
        submitter.create_job(known)
    assert 3 == submitter.hostile.connections


def test_a_connection_closed_by_the_platform_is_replaced(against: Against, known: Job) -> None:
    """A call does not fail because the platform closed an idle connection."""
    closed = threading.Event()

    def close(peer: socket.socket) -> None:
        peer.sendall(answer(GOOD))
        peer.shutdown(socket.SHUT_RDWR)
        closed.set()

    submitter = against(close, answer(GOOD))
    submitter.create_job(known)
    assert closed.wait(MAX_S)
    assert submitter.create_job(known).job_id


def test_cookies_are_not_kept(against: Against, known: Job) -> None:
    """A cookie of a response is not sent with the next request."""
    headers = ["Content-Type: application/json", "Set-Cookie: session=1; Path=/"]
    submitter = against(answer(GOOD, "201 Created", *headers), answer(GOOD))
    submitter.create_job(known)
    submitter.create_job(known)
    heads = submitter.hostile.requests
    assert 2 == len(heads)
    assert not [head for head in heads if b"cookie" in head.lower()]


def test_an_upload_has_its_own_timeout(against: Against, make_upload: MakeUpload, known: Job) -> None:
    """An upload may take longer than `timeout` if data arrives meanwhile, but not longer than `upload-timeout`."""

    def slow(peer: socket.socket) -> None:
        for _second in range(3):
            peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            threading.Event().wait(1)
        peer.sendall(answer(b"", "204 No Content", "X: y"))

    against(slow, timeout=2.5, upload_timeout=MAX_S).upload(known, make_upload(0, b"x" * 100_000))
    with pytest.raises(Retriable, match="took too long"):
        against(slow, timeout=MAX_S, upload_timeout=TIMEOUT_S).upload(known, make_upload(0, b"x" * 100_000))


def test_an_upload_that_is_not_read_times_out(against: Against, make_upload: MakeUpload, known: Job) -> None:
    """The platform stops reading in the middle of a file."""

    with socket.create_server(("127.0.0.1", 0)) as listener:
        submitter = against(endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=TIMEOUT_S)
        with pytest.raises(Retriable, match="took too long"):
            submitter.upload(known, make_upload(0, bytes(50_000_000)))


def test_headers_conform_to_the_api(against: Against, make_upload: MakeUpload, known: Job) -> None:
    """The key is quoted, nothing is compressed, uploads have a length, and all other bodies are JSON."""
    submitter = against(answer(GOOD), answer(b"", "201 Created", "X: y"))
    submitter.create_job(known)
    submitter.upload(known, make_upload(0, b"x" * 100_000))
    create, upload = (head.decode().split("\r\n") for head in submitter.hostile.requests)
    assert "POST /v1/jobs HTTP/1.1" == create[0]
    assert {f'Idempotency-Key: "{known.job_id}"', "Content-Type: application/json"} <= set(create)
    assert f"PUT /v1/payloads/{known.platform_payload_id}/files/input/dcm/000000-1.2.0.dcm HTTP/1.1" == upload[0]
    assert {"Content-Length: 100000", "Accept-Encoding: identity"} <= set(upload)
    assert not [line for line in upload if "chunked" in line or "Idempotency" in line or "Authorization" in line]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*make, *name, "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths


@pytest.fixture
def server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_a_configured_authority_is_trusted(
    against: Against, server_context: ssl.SSLContext, certificate: tuple[Path, Path], known: Job
) -> None:
    """`ca-file` names the authority."""
    submitter = against(answer(GOOD), context=server_context, ca_file=certificate[0], timeout=MAX_S)
    assert submitter.create_job(known).job_id


def test_the_certificates_of_files_and_platform_are_reported(
    against: Against, server_context: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    """Operators see in time when they expire. Without TLS there are none."""
    submitter = against(
        answer(GOOD),
        context=server_context,
        ca_file=certificate[0],
        client_certificate=certificate[0],
        client_key=certificate[1],
    )
    own, authority, platform = submitter.certificates()
    assert [f"client-certificate {certificate[0]}", f"authority in ca-file {certificate[0]}"] == [
        own.subject,
        authority.subject,
    ]
    assert platform.subject.startswith("certificate of 127.0.0.1:")
    assert own.expires_at == authority.expires_at == platform.expires_at
    assert () == against().certificates()


def test_an_unknown_authority_is_not_trusted(against: Against, server_context: ssl.SSLContext, known: Job) -> None:
    """No request is sent, and the error names the reason."""
    submitter = against(answer(GOOD), context=server_context, timeout=MAX_S)
    with pytest.raises(Retriable, match=r"no connection to the platform .*CERTIFICATE_VERIFY_FAILED"):
        submitter.create_job(known)
    assert [] == submitter.hostile.requests


def test_a_client_certificate_is_sent(
    against: Against, server_context: ssl.SSLContext, certificate: tuple[Path, Path], known: Job
) -> None:
    """The platform requires a client certificate."""
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(certificate[0])
    tls = {"context": server_context, "ca_file": certificate[0], "timeout": MAX_S}
    with_certificate = against(answer(GOOD), **tls, client_certificate=certificate[0], client_key=certificate[1])
    assert with_certificate.create_job(known).job_id
    with pytest.raises(Retriable):
        against(answer(GOOD), **tls).create_job(known)


@pytest.mark.parametrize("name", ["ca_file", "client_certificate"])
@pytest.mark.parametrize("content", [None, "not PEM"])
def test_an_unusable_certificate_file_is_named(
    against: Against, server_context: ssl.SSLContext, tmp_path: Path, name: str, content: str | None, known: Job
) -> None:
    """The job's error names the file, and is retriable because the file may be replaced."""
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    submitter = against(answer(GOOD), context=server_context, **{name: path})
    with pytest.raises(Retriable, match=rf"{name.replace('_', '-')} = '.*file.pem' cannot be used"):
        submitter.create_job(known)
