"""The `clara-rest` submitter against servers that are not the platform: it never hangs, crashes, or reports success."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter import (
    Job,
    Permanent,
    PlatformJob,
    Retriable,
    Upload,
)

PATIENT = "SECRET^PATIENT"
TIMEOUT_S = 0.5  # timeout of calls that have to time out
FOREVER_S = 300.0  # longer than the time limit of a test
HTML = b"<!doctype html><html><h1>Please log in</h1></html>"
GOOD: dict[str, Any] = {"jobId": 32 * "1", "payloadId": 32 * "2", "state": "pending", "status": "healthy"}
Against = Callable[..., Any]
MakeUpload = Callable[..., Upload]


def answer(body: bytes | dict[str, Any], status: str = "201 Created", *more: str, length: int | None = None) -> bytes:
    """Return the bytes of a response; `more`: headers instead of the JSON content type."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = "".join(f"{line}\r\n" for line in (*(more or ["Content-Type: application/json"]),))
    size = len(data) if length is None else length
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {size}\r\n\r\n".encode() + data


def html(status: str) -> bytes:
    return answer(HTML, status, "Content-Type: text/html")


def drip(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    """Return a script that sends `head`, then `piece` repeatedly, at intervals far below the timeout of a read."""

    def send(peer: socket.socket) -> None:
        end = time.monotonic() + FOREVER_S
        peer.sendall(head)
        waiting = threading.Event()
        while time.monotonic() < end:
            peer.sendall(piece)
            waiting.wait(TIMEOUT_S / 20)

    return send


def flood(peer: socket.socket) -> None:
    """Send an endless response."""
    peer.sendall(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        peer.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def nothing(peer: socket.socket) -> None:
    """Wait until the client disconnects."""
    peer.recv(1)


def time_for(script: Any) -> dict[str, float]:
    """Return a short timeout for scripts that make the call time out; otherwise the default, for a busy machine."""
    times_out = callable(script) and script is not flood  # a flood ends a call by its size
    return {"timeout": TIMEOUT_S} if times_out else {}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


def test_a_valid_response_is_accepted(against: Against, known: Job) -> None:
    """The response that the other tests modify is valid."""
    created = against(answer(GOOD)).create_job(known)
    assert PlatformJob(job_id=32 * "1", payload_id=32 * "2") == created


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (html("201 Created"), "text/html, not JSON"),
        (html("200 OK"), "the API does not define this status"),
        (answer(b"", "204 No Content"), "the API does not define this status"),
        (answer(b""), "not valid JSON"),
        (answer(b'{"jobId": "11'), "not valid JSON"),
        (answer(b'{"jobId": "\xff"}'), "not valid JSON"),
        (answer(b"[" * 500_000), "not valid JSON"),
        (answer(b"9" * 100_000), "not"),
        (answer(b"[]"), "not an object"),
        (answer(b"null"), "not an object"),
        (answer(without("jobId")), "its jobId is missing"),
        (answer({**GOOD, "jobId": 1}), "its jobId is missing or invalid"),
        (answer({**GOOD, "jobId": "../../etc"}), "its jobId is missing or invalid"),
        (answer({**GOOD, "jobId": "1?x"}), "its jobId is missing or invalid"),
        (answer({**GOOD, "jobId": 500 * "1"}), "its jobId is missing or invalid"),
        (answer(without("payloadId")), "its payloadId is missing"),
        (answer({**GOOD, "state": ["pending"]}), "its state is missing or invalid"),
        (answer({**GOOD, "state": "\x1b[31mred"}), "its state is missing or invalid"),
        (answer({**GOOD, "startedAt": 7}), "its startedAt is not a time"),
        (answer({**GOOD, "messages": "x"}), "its messages are not a list"),
        (answer({**GOOD, "messages": [1]}), "its messages are not a list"),
        (answer({**GOOD, "metadata": [1]}), "its metadata is not"),
        (answer({**GOOD, "metadata": {"a": 1}}), "its metadata is not"),
        (answer(GOOD, "201 Created", "X: y"), "of no declared type"),
        (answer(GOOD, "201 Created", "Content-Type: application/json", "Content-Encoding: gzip"), "compressed"),
        (answer(GOOD, length=500), "body is incomplete"),
        (answer(b"{" + b" " * 1_000_000 + b"}"), "longer than 1000000 bytes"),
        (flood, "longer than 1000000 bytes"),
        (
            b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
            "incomplete",
        ),
        (b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n\r\n{", "not valid JSON"),
        (
            drip(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n", b" "),
            "incomplete",
        ),
    ],
)
def test_a_response_that_is_not_a_valid_job_is_retriable(
    against: Against, script: Any, reason: str, known: Job
) -> None:
    """The status is success, but the response is not from the platform, so the step is retried."""
    with pytest.raises(Retriable, match=reason) as raised:
        against(script, **time_for(script)).create_job(known)
    assert "is not one of a Clara REST API" in str(raised.value)
    assert len(str(raised.value)) < 400
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (nothing, "took too long"),
        (drip(b"HTTP/1.1 201 Created\r\n", b"X: y\r\n"), "took too long"),
        (drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "took too long"),
        (b"", "closed the connection or does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "closed the connection or does not speak HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "closed the connection or does not speak HTTP"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: x\r\n\r\n", "closed the connection or does not speak HTTP"),
        (b"HTTP/1.1 201 Created\r\nX: " + b"y" * 1_000_000, "closed the connection or does not speak HTTP|failed"),
        (b"HTTP/1.1 999 What\r\n\r\n", "999|closed the connection"),
    ],
)
def test_a_missing_or_invalid_response_is_retriable(against: Against, script: Any, reason: str, known: Job) -> None:
    """The call ends within its timeout, however slowly data arrives."""
    with pytest.raises(Retriable, match=reason):
        against(script, **time_for(script)).create_job(known)


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "206 Partial Content"])
def test_a_login_page_does_not_count_as_an_upload(
    against: Against, status: str, make_upload: MakeUpload, known: Job
) -> None:
    """Otherwise the adapter would delete the instance as uploaded."""
    with pytest.raises(Retriable, match="the API does not define this status"):
        against(html(status)).upload(known, make_upload(0, b"x" * 100_000))


@pytest.mark.parametrize("step", ["start", "cancel", "status", "add_metadata"])
@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content"])
def test_a_login_page_does_not_count_as_success(against: Against, step: str, status: str, known: Job) -> None:
    """Every step raises an error."""
    arguments = [{"a": "b"}] if step == "add_metadata" else []
    script = html(status) if not status.startswith("204") else answer(b"", status)
    with pytest.raises(Retriable, match="is not one of a Clara REST API"):
        getattr(against(script), step)(known, *arguments)


@pytest.mark.parametrize("step", ["start", "cancel", "status"])
def test_a_response_for_another_job_is_retriable(against: Against, step: str, known: Job) -> None:
    """A proxy may have mixed up responses."""
    script = answer({**GOOD, "jobId": 32 * "9"}, "202 Accepted" if step == "start" else "200 OK")
    with pytest.raises(Retriable, match="for another job"):
        getattr(against(script), step)(known)


@pytest.mark.parametrize(
    "pages",
    [
        [{"jobs": "x"}],
        [{"jobs": ["x"]}],
        [{"jobs": [], "nextPageToken": 5}],
        [{}],
    ],
)
def test_an_invalid_list_is_retriable(against: Against, pages: list[dict[str, Any]], known: Job) -> None:
    """An invalid list must not count as "the job does not exist"."""
    lost = evolve(known, platform_job_id="", repeated=True)
    with pytest.raises(Retriable, match="is not one of a Clara REST API"):
        against(*(answer(page, "200 OK") for page in pages)).cancel(lost)


def test_an_endless_list_is_retriable(against: Against, monkeypatch: pytest.MonkeyPatch, known: Job) -> None:
    """The submitter reads a limited number of pages."""
    monkeypatch.setattr("dicom_adapter_clara_client.rest_submitter.MAX_PAGES", 5)
    lost = evolve(known, platform_job_id="", repeated=True)
    with pytest.raises(Retriable, match="too many jobs"):
        against(*[answer({"jobs": [], "nextPageToken": "x"}, "200 OK")] * 9).cancel(lost)


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
def test_an_error_page_is_classified_by_its_status(
    against: Against, script: bytes, expected: type[Exception], known: Job
) -> None:
    """The content of the page does not matter, except a valid problem type."""
    with pytest.raises(expected, match=r"the platform answered [45]"):
        against(script).create_job(known)


@pytest.mark.parametrize("script", [html("404 Not Found"), answer({"type": "/problems/not-found"}, "404 Not Found")])
def test_a_404_without_its_problem_type_is_not_a_missing_job(against: Against, script: bytes, known: Job) -> None:
    """A 404 means that the job does not exist only if it has the problem type `job-not-found`."""
    with pytest.raises(Permanent, match="404"):
        against(script).cancel(known)


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"files": {}},
        {"files": ["a"]},
        {"files": [{"path": "a"}]},
        {"files": [{"path": "a", "size": "1"}]},
        {"files": [{"path": "a", "size": -1}]},
        {"files": [{"path": "a", "size": True}]},
        {"files": [{"path": None, "size": 1}]},
        [],
        HTML,
    ],
)
def test_an_invalid_list_of_files_is_retriable(against: Against, known: Job, body: Any) -> None:
    """Another server may answer for a while: the job must not lose results."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Retriable, match=r"results: .* is not one of a Clara REST API"):
        against(answer(data, "200 OK")).results(known)


def test_a_list_of_many_files_is_accepted(against: Against, known: Job) -> None:
    """The platform lists the results of a job together with its instances, which can be many thousand."""
    files = [{"path": f"input/dcm/{number:06}-{'1' * 60}.dcm", "size": number} for number in range(20_000)]
    files.append({"path": "operators/writer/1", "size": 1})
    (result,) = against(answer({"files": files}, "200 OK")).results(known)
    assert "operators/writer/1" == result.name


LISTED = answer({"files": [{"path": "/operators/PATIENT 1", "size": 8}]}, "200 OK")


@pytest.mark.parametrize(
    ("download", "expected"),
    [
        (answer(b"12345678", "200 OK", "Content-Encoding: gzip"), "compressed, which was not requested"),
        (answer(b"1234", "200 OK", "Content-Type: text/plain"), "sent only 4 of the 8 bytes"),
        (answer(b"123456789", "200 OK", "Content-Type: text/plain"), "sent more than the 8 bytes"),
        (answer(b"1234", "200 OK", "Content-Type: text/plain", length=8), "closed the connection"),
        (html("503 Service Unavailable"), "503"),
        (answer(b"12345678", "206 Partial Content"), "does not define this status"),
        (b"nonsense\r\n\r\n", "does not speak HTTP"),
    ],
)
def test_an_incomplete_download_is_retriable(against: Against, known: Job, download: bytes, expected: str) -> None:
    """A result is stored only if it is complete. Its name may contain a patient's id, so the error does not show it."""
    submitter = against(LISTED, download)
    (result,) = submitter.results(known)
    with pytest.raises(Retriable, match=f"results: result 1: .*{expected}") as raised, result.open() as source:
        source.read()
    assert "PATIENT" not in str(raised.value)
    assert (
        b"GET /v1/payloads/" + known.platform_payload_id.encode() + b"/files/operators/PATIENT%201 "
        in (submitter.hostile.requests[1])
    )


def test_a_slow_download_ends_at_its_timeout(against: Against, known: Job) -> None:
    """The platform sends one byte at a time."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    listed = answer({"files": [{"path": "a", "size": 1_000_000}]}, "200 OK")
    (result,) = against(listed, drip(head, b"x"), download_timeout=TIMEOUT_S).results(known)
    with pytest.raises(Retriable, match=f"limit {TIMEOUT_S:g} s"), result.open() as source:
        source.read()


def test_a_redirected_download_is_a_permanent_error(against: Against, known: Job) -> None:
    """The token would be sent to another server."""
    (result,) = against(LISTED, answer(b"", "302 Found", "Location: http://elsewhere.example/")).results(known)
    with pytest.raises(Permanent, match="redirects"), result.open() as source:
        source.read()


def test_a_404_of_a_proxy_does_not_count_as_a_missing_payload(against: Against, known: Job) -> None:
    """Only the platform's own problem document means that the payload is gone."""
    with pytest.raises(Permanent, match="clean up"):
        against(html("404 Not Found"), delete_payloads=True).clean_up(known)
