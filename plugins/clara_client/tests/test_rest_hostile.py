"""The `clara-rest` submitter against servers that are no platform: it never hangs, crashes or believes them."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import (
    InstanceStorageInfo,
    Job,
    JobPriority,
    Permanent,
    PlatformJob,
    Retriable,
    SubmitterContext,
    Upload,
)
from dicom_adapter_clara_client.rest_settings import ClaraRestSettings
from dicom_adapter_clara_client.rest_submitter import ClaraRestSubmitter

TIMEOUT_S = 0.5  # of each call
MOST_S = 5.0  # that a call may take on a busy machine
NOW = datetime.now(timezone.utc)
GOOD: dict[str, Any] = {"jobId": 32 * "1", "payloadId": 32 * "2", "state": "pending", "status": "healthy"}
JOB = Job(
    job_id=32 * "0",
    name="a",
    ae_title="LUNG",
    pipeline_id=32 * "a",
    priority=JobPriority.NORMAL,
    submitter="clara",
    instance_count=1,
    created_at=NOW,
    changed_at=NOW,
    platform_job_id=32 * "1",
    platform_payload_id=32 * "2",
)
HTML = b"<!doctype html><html><h1>Please log in</h1></html>"


class Hostile:
    """A server that reads one request after the other and answers each with the next script."""

    def __init__(
        self, *scripts: bytes | Callable[[socket.socket], None], context: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._scripts = list(scripts)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._scripts.clear()
        for one in [self._listener, *self._open]:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed by the other side
            one.close()
        self._thread.join(MOST_S)

    def _accept(self) -> None:
        while self._scripts:
            try:
                peer, _ = self._listener.accept()
                self._open.append(peer)
                if self._context is not None:
                    peer = self._context.wrap_socket(peer, server_side=True)
                    self._open[-1] = peer
                self.connections += 1
                self._serve(peer)
            except OSError:
                continue

    def _serve(self, peer: socket.socket) -> None:
        while self._scripts and self._read(peer):
            script = self._scripts.pop(0)
            if callable(script):
                script(peer)
            else:
                peer.sendall(script)
        if not self._scripts:
            peer.shutdown(socket.SHUT_WR)

    def _read(self, peer: socket.socket) -> bool:
        """One request with its body."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = peer.recv(65536)
            if not piece:
                return False
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < int(lengths[0] if lengths else 0):
            body += peer.recv(65536)
        self.requests.append(head)
        return True


@pytest.fixture
def against(tmp_path: Path) -> Iterator[Callable[..., ClaraRestSubmitter]]:
    """Connects a submitter to a server of these scripts, which is its `hostile`."""
    opened: list[Any] = []

    def connect(*scripts: Any, context: ssl.SSLContext | None = None, **settings: Any) -> ClaraRestSubmitter:
        server = Hostile(*scripts, context=context)
        scheme = "http" if context is None else "https"
        values = {"endpoint": f"{scheme}://127.0.0.1:{server.port}", "timeout": TIMEOUT_S, **settings}
        submitter = ClaraRestSubmitter(
            ClaraRestSettings(**values), SubmitterContext(name="clara", data_folder=tmp_path)
        )
        submitter.open()
        opened.extend([submitter, server])
        submitter.hostile = server  # type: ignore[attr-defined] # for the tests
        return submitter

    yield connect
    for one in opened:
        one.close()


def answer(body: bytes | dict[str, Any], status: str = "201 Created", *more: str, length: int | None = None) -> bytes:
    """An answer as it goes over the wire; `more`: headers in the place of the JSON content type."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = "".join(f"{line}\r\n" for line in (*(more or ["Content-Type: application/json"]),))
    size = len(data) if length is None else length
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {size}\r\n\r\n".encode() + data


def html(status: str) -> bytes:
    return answer(HTML, status, "Content-Type: text/html")


def drip(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    """Send `head`, then `piece` for ever, each well below the time that a single read has."""

    def send(peer: socket.socket) -> None:
        end = time.monotonic() + 10 * MOST_S
        peer.sendall(head)
        waiting = threading.Event()
        while time.monotonic() < end:
            peer.sendall(piece)
            waiting.wait(TIMEOUT_S / 20)

    return send


def flood(peer: socket.socket) -> None:
    """An answer without end."""
    peer.sendall(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        peer.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def nothing(peer: socket.socket) -> None:
    """Wait for the client to give up."""
    peer.recv(1)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


def an_upload(data: bytes = b"x" * 100_000) -> Upload:
    instance = InstanceStorageInfo(
        instance_id=1,
        ae_title="LUNG",
        calling_ae_title="CT1",
        peer_address="127.0.0.1",
        association_id="a",
        sop_class_uid="1.2",
        sop_instance_uid="1.2.3",
        study_instance_uid="1.2.1",
        series_instance_uid="1.2.2",
        transfer_syntax_uid="1.2",
        patient_id="",
        issuer_of_patient_id="",
        received_at=NOW,
        storage_key="",
        size_bytes=len(data),
        checksum=0,
    )
    return Upload(instance=instance, position=0, size_bytes=len(data), open=lambda: BytesIO(data))


Against = Callable[..., ClaraRestSubmitter]


def test_a_good_answer_is_believed(against: Against) -> None:
    """The scripts of this file are right where they should be."""
    created = against(answer(GOOD)).create_job(JOB)
    assert PlatformJob(job_id=32 * "1", payload_id=32 * "2") == created


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (html("201 Created"), "text/html, not JSON"),
        (html("200 OK"), "this status is none of those"),
        (answer(b"", "204 No Content"), "this status is none of those"),
        (answer(b""), "not valid JSON"),
        (answer(b'{"jobId": "11'), "not valid JSON"),
        (answer(b'{"jobId": "\xff"}'), "not valid JSON"),
        (answer(b"[" * 500_000), "not valid JSON"),
        (answer(b"9" * 100_000), "not"),
        (answer(b"[]"), "not an object"),
        (answer(b"null"), "not an object"),
        (answer(without("jobId")), "its jobId is missing"),
        (answer({**GOOD, "jobId": 1}), "its jobId is missing or is not"),
        (answer({**GOOD, "jobId": "../../etc"}), "its jobId is missing or is not"),
        (answer({**GOOD, "jobId": "1?x"}), "its jobId is missing or is not"),
        (answer({**GOOD, "jobId": 500 * "1"}), "its jobId is missing or is not"),
        (answer(without("payloadId")), "its payloadId is missing"),
        (answer({**GOOD, "state": ["pending"]}), "its state is missing or is not"),
        (answer({**GOOD, "state": "\x1b[31mred"}), "its state is missing or is not"),
        (answer({**GOOD, "startedAt": 7}), "its startedAt is not a time"),
        (answer({**GOOD, "messages": "x"}), "its messages are not a list"),
        (answer({**GOOD, "messages": [1]}), "its messages are not a list"),
        (answer({**GOOD, "metadata": [1]}), "its metadata is not"),
        (answer({**GOOD, "metadata": {"a": 1}}), "its metadata is not"),
        (answer(GOOD, "201 Created", "X: y"), "of no declared type"),
        (answer(GOOD, "201 Created", "Content-Type: application/json", "Content-Encoding: gzip"), "compressed"),
        (answer(GOOD, length=500), "did not come whole"),
        (answer(b"{" + b" " * 1_000_000 + b"}"), "longer than 1000000 bytes"),
        (flood, "longer than 1000000 bytes"),
        (
            b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
            "whole",
        ),
        (b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n\r\n{", "not valid JSON"),
        (
            drip(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n", b" "),
            "whole",
        ),
    ],
)
def test_an_answer_that_is_no_job_is_not_believed(against: Against, script: Any, reason: str) -> None:
    """It means success, but it is not the platform's: the step is tried again."""
    with pytest.raises(Retriable, match=reason) as raised:
        against(script).create_job(JOB)
    assert "is not that of a Clara REST API" in str(raised.value)
    assert len(str(raised.value)) < 400
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (nothing, "took too long"),
        (drip(b"HTTP/1.1 201 Created\r\n", b"X: y\r\n"), "took too long"),
        (drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "took too long"),
        (b"", "broke off or does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "broke off or does not speak HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "broke off or does not speak HTTP"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: x\r\n\r\n", "broke off or does not speak HTTP"),
        (b"HTTP/1.1 201 Created\r\nX: " + b"y" * 1_000_000, "broke off or does not speak HTTP|failed"),
        (b"HTTP/1.1 999 What\r\n\r\n", "999|broke off"),
    ],
)
def test_what_is_no_answer_at_all_is_tried_again(against: Against, script: Any, reason: str) -> None:
    """Within the time for a call, however slowly something comes."""
    begun = time.monotonic()
    with pytest.raises(Retriable, match=reason):
        against(script).create_job(JOB)
    assert time.monotonic() - begun < MOST_S


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "206 Partial Content"])
def test_a_login_page_is_no_upload(against: Against, status: str) -> None:
    """Otherwise the instance would count as uploaded, and be deleted."""
    with pytest.raises(Retriable, match="this status is none of those"):
        against(html(status)).upload(JOB, an_upload())


@pytest.mark.parametrize("step", ["start", "cancel", "status", "add_metadata"])
@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content"])
def test_a_login_page_is_no_success(against: Against, step: str, status: str) -> None:
    """Of no step."""
    arguments = [{"a": "b"}] if step == "add_metadata" else []
    script = html(status) if not status.startswith("204") else answer(b"", status)
    with pytest.raises(Retriable, match="is not that of a Clara REST API"):
        getattr(against(script), step)(JOB, *arguments)


@pytest.mark.parametrize("step", ["start", "cancel", "status"])
def test_an_answer_about_another_job_is_not_believed(against: Against, step: str) -> None:
    """Something between mixes up its answers."""
    script = answer({**GOOD, "jobId": 32 * "9"}, "202 Accepted" if step == "start" else "200 OK")
    with pytest.raises(Retriable, match="about another job"):
        getattr(against(script), step)(JOB)


@pytest.mark.parametrize(
    "pages",
    [
        [{"jobs": "x"}],
        [{"jobs": ["x"]}],
        [{"jobs": [], "nextPageToken": 5}],
        [{}],
    ],
)
def test_a_list_that_is_none_is_not_believed(against: Against, pages: list[dict[str, Any]]) -> None:
    """A job that is looked for is not made again because of it."""
    lost = Job(**{**_fields(JOB), "platform_job_id": "", "repeated": True})
    with pytest.raises(Retriable, match="is not that of a Clara REST API"):
        against(*(answer(page, "200 OK") for page in pages)).cancel(lost)


def test_a_list_without_end_is_left(against: Against, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that always has another page does not keep the submitter for ever."""
    monkeypatch.setattr("dicom_adapter_clara_client.rest_submitter.MOST_PAGES", 5)
    lost = Job(**{**_fields(JOB), "platform_job_id": "", "repeated": True})
    with pytest.raises(Retriable, match="too many jobs"):
        against(*[answer({"jobs": [], "nextPageToken": "x"}, "200 OK")] * 9).cancel(lost)


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__slots__ if not name.startswith("_")}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (html("404 Not Found"), Permanent),
        (html("503 Service Unavailable"), Retriable),
        (answer(b'{"title": 5, "detail": [], "claraCode": "x", "type": {}}', "400 Bad Request"), Permanent),
        (answer(b"[" * 100_000, "400 Bad Request"), Permanent),
        (answer({"claraCode": 10**400}, "400 Bad Request"), Permanent),
        (answer(b"{}", "400 Bad Request", length=500), Permanent),
        (answer(b" " * 2_000_000, "400 Bad Request"), Permanent),
        (answer(b"{}", "409 Conflict"), Permanent),
        (answer({"type": "https://x.example/problems/request-in-progress"}, "409 Conflict"), Retriable),
    ],
)
def test_an_error_page_counts_by_its_status(against: Against, script: bytes, expected: type[Exception]) -> None:
    """Whatever is in it."""
    with pytest.raises(expected, match=r"the platform answered [45]"):
        against(script).create_job(JOB)


@pytest.mark.parametrize("script", [html("404 Not Found"), answer({"type": "/problems/not-found"}, "404 Not Found")])
def test_a_wrong_address_is_no_cancelled_job(against: Against, script: bytes) -> None:
    """404 means that there is no such job only if it says so."""
    with pytest.raises(Permanent, match="404"):
        against(script).cancel(JOB)


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_a_redirect_is_not_followed(against: Against, status: str) -> None:
    """It could take patients' data and the token elsewhere."""
    elsewhere = against(answer(GOOD))
    port = elsewhere.hostile.port  # type: ignore[attr-defined] # set by the fixture
    script = answer(b"", status, f"Location: http://127.0.0.1:{port}/v1/jobs")
    with pytest.raises(Permanent, match=f"redirects .* to http://127.0.0.1:{port}/v1/jobs, which is not followed"):
        against(script).create_job(JOB)
    assert 0 == elsewhere.hostile.connections  # type: ignore[attr-defined] # set by the fixture


def test_connections_are_used_again(against: Against) -> None:
    """Many calls, one connection."""
    submitter = against(*[answer(GOOD)] * 5)
    for _ in range(5):
        submitter.create_job(JOB)
    assert 1 == submitter.hostile.connections  # type: ignore[attr-defined] # set by the fixture


def test_connections_are_not_kept_if_they_must_not_be(against: Against) -> None:
    """keep-alive-connections = 0."""
    submitter = against(*[answer(GOOD)] * 3, keep_alive_connections=0)
    for _ in range(3):
        submitter.create_job(JOB)
    assert 3 == submitter.hostile.connections  # type: ignore[attr-defined] # set by the fixture


def test_a_connection_that_was_closed_meanwhile_is_replaced(against: Against) -> None:
    """A platform that closes idle connections costs no attempt."""
    closed = threading.Event()

    def close(peer: socket.socket) -> None:
        peer.sendall(answer(GOOD))
        peer.shutdown(socket.SHUT_RDWR)
        closed.set()

    submitter = against(close, answer(GOOD))
    submitter.create_job(JOB)
    assert closed.wait(MOST_S)
    assert submitter.create_job(JOB).job_id


def test_cookies_are_not_kept(against: Against) -> None:
    """What one answer sets does not go with the next request."""
    headers = ["Content-Type: application/json", "Set-Cookie: session=1; Path=/"]
    submitter = against(answer(GOOD, "201 Created", *headers), answer(GOOD))
    submitter.create_job(JOB)
    submitter.create_job(JOB)
    heads = submitter.hostile.requests  # type: ignore[attr-defined] # set by the fixture
    assert 2 == len(heads)
    assert not [head for head in heads if b"cookie" in head.lower()]


def test_an_upload_has_its_own_time(against: Against) -> None:
    """A file may take longer than a call, but not for ever."""

    def slow(peer: socket.socket) -> None:
        threading.Event().wait(TIMEOUT_S / 2)
        peer.sendall(answer(b"", "204 No Content", "X: y"))

    against(slow, timeout=TIMEOUT_S, upload_timeout=MOST_S).upload(JOB, an_upload())
    with pytest.raises(Retriable, match="took too long"):
        against(slow, timeout=MOST_S, upload_timeout=TIMEOUT_S / 5).upload(JOB, an_upload())


def test_an_upload_that_nobody_reads_ends(against: Against) -> None:
    """A platform that stops reading in the middle of a file is left."""

    with socket.create_server(("127.0.0.1", 0)) as listener:
        submitter = against(endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(Retriable, match="took too long"):
            submitter.upload(JOB, an_upload(bytes(50_000_000)))


def test_headers_are_what_the_api_says(against: Against) -> None:
    """A quoted key, no compression, a length for each upload, JSON for all else."""
    submitter = against(answer(GOOD), answer(b"", "201 Created", "X: y"))
    submitter.create_job(JOB)
    submitter.upload(JOB, an_upload())
    create, upload = (head.decode().split("\r\n") for head in submitter.hostile.requests)  # type: ignore[attr-defined]
    assert "POST /v1/jobs HTTP/1.1" == create[0]
    assert {f'Idempotency-Key: "{JOB.job_id}"', "Content-Type: application/json"} <= set(create)
    assert f"PUT /v1/payloads/{JOB.platform_payload_id}/files/input/dcm/000000-1.2.3.dcm HTTP/1.1" == upload[0]
    assert {"Content-Length: 100000", "Accept-Encoding: identity"} <= set(upload)
    assert not [line for line in upload if "chunked" in line or "Idempotency" in line or "Authorization" in line]


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
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


def test_an_authority_of_ones_own_is_trusted(
    against: Against, server_context: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    """ca-file names it."""
    submitter = against(answer(GOOD), context=server_context, ca_file=certificate[0], timeout=MOST_S)
    assert submitter.create_job(JOB).job_id


def test_an_unknown_authority_is_not_trusted(against: Against, server_context: ssl.SSLContext) -> None:
    """Nothing is sent; the message says why."""
    submitter = against(answer(GOOD), context=server_context, timeout=MOST_S)
    with pytest.raises(Retriable, match=r"no connection to the platform .*CERTIFICATE_VERIFY_FAILED"):
        submitter.create_job(JOB)
    assert [] == submitter.hostile.requests  # type: ignore[attr-defined] # set by the fixture


def test_a_client_certificate_is_shown(
    against: Against, server_context: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    """To a platform that demands one."""
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(certificate[0])
    tls = {"context": server_context, "ca_file": certificate[0], "timeout": MOST_S}
    shown = against(answer(GOOD), **tls, client_certificate=certificate[0], client_key=certificate[1])
    assert shown.create_job(JOB).job_id
    with pytest.raises(Retriable):
        against(answer(GOOD), **tls).create_job(JOB)


@pytest.mark.parametrize("name", ["ca_file", "client_certificate"])
@pytest.mark.parametrize("content", [None, "not PEM"])
def test_a_file_that_cannot_be_used_is_named(
    against: Against, server_context: ssl.SSLContext, tmp_path: Path, name: str, content: str | None
) -> None:
    """In the error of the job, where an operator looks; it works as soon as the file is right."""
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    submitter = against(answer(GOOD), context=server_context, **{name: path})
    with pytest.raises(Retriable, match=rf"{name.replace('_', '-')} = '.*file.pem', cannot be used"):
        submitter.create_job(JOB)
