"""Connections to a DICOMweb server: requests, credentials, TLS, slow and broken peers, and `check --connect`."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import Permanent, Retriable, Secret
from dicom_adapter.testing.submitter_jobs import PATIENT_ID, make_job, make_upload
from dicom_adapter_delivery.dicomweb_settings import DicomwebSettings, DicomwebTls
from dicom_adapter_delivery.dicomweb_submitter import DicomwebSubmitter
from support.certificates import Pki
from support.stow_server import Answer, SeenRequest, StowServer, found, part_of, serving

from .conftest import SECONDS

JOB = make_job(1, "results")
Connect = Callable[..., DicomwebSubmitter]


def upload(submitter: DicomwebSubmitter, position: int = 0, data: bytes = b"an instance") -> None:
    submitter.upload(JOB, make_upload(position, data))


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 700_000])
def test_request_conforms_to_the_standard(server: StowServer, submitter: DicomwebSubmitter, size: int) -> None:
    """PS3.18 section 10.5.1: multipart/related with its length, and without `Expect`, which some servers ignore."""
    data = bytes(number % 251 for number in range(size))
    upload(submitter, data=data)
    [request] = server.requests
    assert ("POST", "/dicom-web/studies") == (request.method, request.path)
    kind, of_parts, boundary = request.headers["content-type"].split("; ")
    assert ("multipart/related", 'type="application/dicom"') == (kind, of_parts)
    assert boundary.startswith("boundary=")
    assert "application/dicom+json" == request.headers["accept"]
    assert not {"expect", "transfer-encoding", "authorization", "cookie"} & request.headers.keys()
    assert str(len(request.body)) == request.headers["content-length"]
    assert data == part_of(request.body, request.headers["content-type"])


@pytest.mark.parametrize("slash", ["", "/"])
def test_studies_is_appended_to_the_url(server: StowServer, connect: Connect, slash: str) -> None:
    upload(connect(server.url + slash))
    assert "/dicom-web/studies" == server.requests[0].path


def test_uploads_reuse_connections(server: StowServer, submitter: DicomwebSubmitter) -> None:
    """A new connection for each instance would need a TLS handshake for each."""
    for position in range(10):
        upload(submitter, position)
    assert 1 == len({request.connection for request in server.requests})


def test_uploads_run_in_parallel(server: StowServer, submitter: DicomwebSubmitter) -> None:
    """Four uploads are at the server at the same time."""
    together = threading.Barrier(4)

    def wait(_request: SeenRequest) -> Answer:
        together.wait(20)
        return Answer()

    server.answer = wait
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda position: upload(submitter, position), range(4)))
    assert 4 == len({request.connection for request in server.requests})


def test_connection_that_the_server_has_closed_is_not_used(server: StowServer, submitter: DicomwebSubmitter) -> None:
    """Servers close idle connections after a while."""
    server.answer = lambda _request: Answer(headers={"Connection": "close"})
    for position in range(3):
        upload(submitter, position)
    assert 3 == len({request.connection for request in server.requests})


# --- credentials ------------------------------------------------------------------------------------------------------


def test_user_and_password_are_sent_with_basic_authentication(server: StowServer, connect: Connect) -> None:
    """RFC 7617, in UTF-8."""
    upload(connect(server.url, user="adapter", password=Secret("pä:ss")))
    scheme, value = server.requests[0].headers["authorization"].split()
    assert ("Basic", "adapter:pä:ss") == (scheme, base64.b64decode(value).decode())


def test_bearer_token_is_sent(server: StowServer, connect: Connect) -> None:
    upload(connect(server.url, token=Secret("abc.def")))
    assert "Bearer abc.def" == server.requests[0].headers["authorization"]


def test_token_file_is_read_for_each_request(server: StowServer, connect: Connect, tmp_path: Path) -> None:
    """Another program renews the token."""
    path = tmp_path / "token"
    path.write_text("first\n")
    submitter = connect(server.url, token_file=path)
    upload(submitter)
    path.write_text("second\n")
    upload(submitter)
    assert ["Bearer first", "Bearer second"] == [request.headers["authorization"] for request in server.requests]


@pytest.mark.parametrize("content", [None, "", "two words", "a\r\nX-Injected: b", "ü"])
def test_unusable_token_file_is_retried_and_not_quoted(
    server: StowServer, connect: Connect, tmp_path: Path, content: str | None
) -> None:
    """The file may be replaced at any moment. Its content is a secret."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Retriable, match="token-file = ") as raised:
        upload(connect(server.url, token_file=path))
    assert "Injected" not in str(raised.value)
    assert [] == server.requests


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "pacs/dicom-web",
        "ftp://pacs/dicom-web",
        "https://user@pacs/dicom-web",
        "https://pacs/dicom-web?a=b",
        "https://pacs/dicom web",
        "https://pacs:0/",
        "https://pacs:x/",
        "https://pacs/dicom-web/studies",
        "https://pacs/dicom-web/studies/",
        "https://pöcs/",
        "",
    ],
)
def test_url_must_be_the_base_of_a_service(url: str) -> None:
    with pytest.raises(ValueError, match="must be a URL such as"):
        DicomwebSettings(url=url)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"token": Secret("a"), "user": "b", "password": Secret("c")}, "only one of"),
        ({"token": Secret("a"), "token_file": Path("b")}, "only one of"),
        ({"user": "a"}, "need each other"),
        ({"password": Secret("a")}, "need each other"),
        ({"user": "a:b", "password": Secret("c")}, "without a colon"),
        ({"token": Secret("a b")}, "bearer token"),
        ({"tls": DicomwebTls(ca_file=Path("ca.pem"))}, "needs a url that begins with https"),
    ],
)
def test_contradicting_settings_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DicomwebSettings(url="http://pacs/dicom-web", **more)


def test_client_key_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="client-key needs client-certificate"):
        DicomwebTls(client_key=Path("key.pem"))


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


@pytest.fixture
def secure_server(pki: Pki) -> Iterator[StowServer]:
    """Return a server that demands a client certificate."""
    certificate, key = pki.adapter()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.authority))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    yield from serving(StowServer(context=context))


def test_tls_with_a_client_certificate(secure_server: StowServer, connect: Connect, pki: Pki) -> None:
    certificate, key = pki.issue("client", "adapter.example")
    tls = DicomwebTls(ca_file=pki.authority, client_certificate=certificate, client_key=key)
    submitter = connect(secure_server.url, tls=tls)
    upload(submitter)
    assert [b"an instance"] == [request.part for request in secure_server.requests]
    subjects = [found.subject.partition(" /")[0] for found in submitter.certificates()]
    assert ["client-certificate", "authority in ca-file"] == subjects[:2]
    assert "127.0.0.1" in subjects[2]


def test_renewed_certificate_is_used_without_a_restart(
    secure_server: StowServer, connect: Connect, pki: Pki, tmp_path: Path
) -> None:
    """The authority arrives, and the client certificate is renewed, while the submitter is open.

    The connection with the old certificate is closed. Verified to fail when replaced connections are kept.
    """
    certificate, key = pki.issue("client", "adapter.example")
    authority = tmp_path / "authority.pem"
    authority.write_bytes(Pki(tmp_path / "other").authority.read_bytes())
    submitter = connect(
        secure_server.url, tls=DicomwebTls(ca_file=authority, client_certificate=certificate, client_key=key)
    )
    with pytest.raises(Retriable, match="certificate verify failed"):
        upload(submitter)
    authority.write_bytes(pki.authority.read_bytes())
    upload(submitter)
    pki.issue("client", "adapter.example")
    upload(submitter)
    assert 2 == len({request.connection for request in secure_server.requests})
    assert secure_server.ended.wait(SECONDS)


def test_untrusted_server_gets_nothing(secure_server: StowServer, connect: Connect) -> None:
    """The operator may install the authority while the job waits."""
    with pytest.raises(Retriable, match=r"no connection to the server .*certificate verify failed"):
        upload(connect(secure_server.url))
    assert [] == secure_server.requests


def test_unusable_certificate_file_is_retried(secure_server: StowServer, connect: Connect, tmp_path: Path) -> None:
    tls = DicomwebTls(ca_file=tmp_path / "missing.pem")
    with pytest.raises(Retriable, match=r"tls: ca-file = .*cannot be used: No such file"):
        upload(connect(secure_server.url, tls=tls))


def test_no_certificates_are_reported_without_tls(submitter: DicomwebSubmitter) -> None:
    assert [] == list(submitter.certificates())


# --- slow and broken peers --------------------------------------------------------------------------------------------


@pytest.fixture
def peer() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Return a function that starts a peer: it calls `act` with each connection. The function returns its URL."""
    listeners: list[socket.socket] = []

    def start(act: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _address = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_run, args=(act, connection), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _run(act: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection:
        try:
            act(connection)
        except OSError:
            pass  # the submitter has closed the connection


def read_request(connection: socket.socket) -> None:
    """Read a small request to its end. Raise ConnectionError if the submitter closes the connection before."""
    received = b""
    while not received.endswith(b"--\r\n"):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the request is incomplete")
        received += piece


def trickle(connection: socket.socket) -> None:
    """Send a response header byte by byte, for ever."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def test_peer_that_sends_a_byte_now_and_then_cannot_delay_an_upload_for_ever(peer: Any, connect: Connect) -> None:
    """The pauses are shorter than `timeout`; `upload-timeout` ends the call.

    Verified to fail without the limit for the whole call.
    """
    submitter, began = connect(peer(trickle), timeout=5.0, upload_timeout=1.0), time.monotonic()
    with pytest.raises(Retriable, match=r"took too long \(ReadTimeout; the limit for the whole call is 1 s\)"):
        upload(submitter)
    assert time.monotonic() - began < 10


def test_silent_peer_is_given_up_after_the_timeout(peer: Any, connect: Connect) -> None:
    submitter = connect(peer(lambda connection: time.sleep(30)), timeout=0.3)
    with pytest.raises(Retriable, match="took too long"):
        upload(submitter)


def test_peer_that_reads_nothing_is_given_up_after_the_timeout(peer: Any, connect: Connect) -> None:
    """The buffers of the sockets are full, and the upload makes no progress."""
    submitter = connect(peer(lambda connection: time.sleep(30)), timeout=0.5)
    with pytest.raises(Retriable, match=r"took too long \((Write|Read)Timeout"):
        upload(submitter, data=bytes(30_000_000))


@pytest.mark.parametrize(
    "response",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"SSH-2.0-OpenSSH\r\n\r\n", b"\0\1\2\3" * 100],
    ids=["nothing", "half-header", "ssh", "binary"],
)
def test_peer_that_does_not_speak_http_is_retried(peer: Any, connect: Connect, response: bytes) -> None:
    def act(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(response)

    with pytest.raises(Retriable, match=r"the server closed the connection or does not|connection .* failed"):
        upload(connect(peer(act)))


def test_response_that_is_cut_off_is_no_delivery(peer: Any, connect: Connect) -> None:
    """The status arrived, but not the body that could name a failure: the submitter searches, which fails here."""

    def act(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")

    with pytest.raises(Retriable):
        upload(connect(peer(act), timeout=1.0))


def test_answer_before_the_end_of_the_upload_is_read(peer: Any, connect: Connect) -> None:
    """A server may refuse a large file before it has read it, and close the connection."""

    def act(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass

    with pytest.raises(Permanent, match=r"413 .*raise the server's limit"):
        upload(connect(peer(act)), data=bytes(3_000_000))


def test_close_ends_running_uploads(peer: Any, connect: Connect) -> None:
    """The service stops in time, whatever a server does."""
    arrived = threading.Event()

    def act(connection: socket.socket) -> None:
        read_request(connection)
        arrived.set()
        connection.recv(1)

    submitter = connect(peer(act), timeout=60.0)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(upload, submitter)
        assert arrived.wait(20)
        submitter.close()
        assert isinstance(running.exception(20), Retriable)


def test_errors_contain_no_secrets_and_no_patient_data(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Retriable, match="no connection to the server") as raised:
        upload(connect(f"http://127.0.0.1:{port}", token=Secret("very-secret")))
    assert [] == [text for text in ("very-secret", PATIENT_ID) if text in str(raised.value)]


# --- check --connect --------------------------------------------------------------------------------------------------


def test_check_searches_and_stores_nothing(server: StowServer, submitter: DicomwebSubmitter) -> None:
    server.answer = lambda _request: Answer(body=found("1.2.3"))
    assert f"{server.url} answers" == submitter.check_connection()
    assert [("GET", "/dicom-web/studies?limit=1")] == [(seen.method, seen.path) for seen in server.requests]


def test_check_of_an_empty_server_succeeds(server: StowServer, submitter: DicomwebSubmitter) -> None:
    server.answer = lambda _request: Answer(status=204)
    assert f"{server.url} answers" == submitter.check_connection()


@pytest.mark.parametrize("search", [400, 403, 404, 405, 501])
@pytest.mark.parametrize("store", [200, 400, 409, 415])
def test_check_of_a_server_without_search_stores_nothing(
    server: StowServer, submitter: DicomwebSubmitter, search: int, store: int
) -> None:
    """The check sends a store transaction without instances, which the server may refuse for this reason."""
    server.answer = lambda request: Answer(status=search if request.method == "GET" else store)
    assert submitter.check_connection().endswith("accepts store transactions; it offers no search")
    body = server.requests[-1].body
    assert body.startswith(b"--")
    assert body.endswith(b"--\r\n")
    assert b"Content-Type" not in body


@pytest.mark.parametrize(
    ("search", "store", "error", "words"),
    [
        (401, 200, Permanent, "check token"),
        (404, 404, Permanent, "check that url is the base"),
        (403, 403, Permanent, "rights of the user"),
        (503, 200, Retriable, "503 Service Unavailable"),
        (302, 200, Permanent, "redirects"),
    ],
)
def test_check_reports_the_refusal_of_the_server(
    server: StowServer, submitter: DicomwebSubmitter, search: int, store: int, error: type[Exception], words: str
) -> None:
    server.answer = lambda request: Answer(status=search if request.method == "GET" else store)
    with pytest.raises(error, match=words):
        submitter.check_connection()


def test_check_of_a_server_that_is_not_dicomweb_fails(server: StowServer, submitter: DicomwebSubmitter) -> None:
    server.answer = lambda _request: Answer(body=b"<html>log in</html>", headers={"Content-Type": "text/html"})
    with pytest.raises(Permanent, match="without DICOM JSON; check that url leads to the DICOMweb server itself"):
        submitter.check_connection()
