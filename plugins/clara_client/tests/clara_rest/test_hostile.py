"""The `clara-rest` submitter against servers that are no platform: it never hangs, crashes or believes them."""

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
TIMEOUT_S = 0.5  # of calls to what never ends its answer
FOR_EVER_S = 300.0  # longer than a test may take
HTML = b"<!doctype html><html><h1>Please log in</h1></html>"
GOOD: dict[str, Any] = {"jobId": 32 * "1", "payloadId": 32 * "2", "state": "pending", "status": "healthy"}
Against = Callable[..., Any]
MakeUpload = Callable[..., Upload]


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
        end = time.monotonic() + FOR_EVER_S
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


def time_for(script: Any) -> dict[str, float]:
    """A short time for what is to be cut off by it; enough for all else, however busy the machine is."""
    is_endless = callable(script) and script is not flood
    return {"timeout": TIMEOUT_S} if is_endless else {}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


def test_a_good_answer_is_believed(against: Against, known: Job) -> None:
    """The scripts of this file are right where they should be."""
    created = against(answer(GOOD)).create_job(known)
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
def test_an_answer_that_is_no_job_is_not_believed(against: Against, script: Any, reason: str, known: Job) -> None:
    """It means success, but it is not the platform's: the step is tried again."""
    with pytest.raises(Retriable, match=reason) as raised:
        against(script, **time_for(script)).create_job(known)
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
def test_what_is_no_answer_at_all_is_tried_again(against: Against, script: Any, reason: str, known: Job) -> None:
    """Within the time for a call, however slowly something comes."""
    with pytest.raises(Retriable, match=reason):
        against(script, **time_for(script)).create_job(known)


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "206 Partial Content"])
def test_a_login_page_is_no_upload(against: Against, status: str, an_instance: MakeUpload, known: Job) -> None:
    """Otherwise the instance would count as uploaded, and be deleted."""
    with pytest.raises(Retriable, match="this status is none of those"):
        against(html(status)).upload(known, an_instance(0, b"x" * 100_000))


@pytest.mark.parametrize("step", ["start", "cancel", "status", "add_metadata"])
@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content"])
def test_a_login_page_is_no_success(against: Against, step: str, status: str, known: Job) -> None:
    """Of no step."""
    arguments = [{"a": "b"}] if step == "add_metadata" else []
    script = html(status) if not status.startswith("204") else answer(b"", status)
    with pytest.raises(Retriable, match="is not that of a Clara REST API"):
        getattr(against(script), step)(known, *arguments)


@pytest.mark.parametrize("step", ["start", "cancel", "status"])
def test_an_answer_about_another_job_is_not_believed(against: Against, step: str, job: Job, known: Job) -> None:
    """Something between mixes up its answers."""
    script = answer({**GOOD, "jobId": 32 * "9"}, "202 Accepted" if step == "start" else "200 OK")
    with pytest.raises(Retriable, match="about another job"):
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
def test_a_list_that_is_none_is_not_believed(against: Against, pages: list[dict[str, Any]], known: Job) -> None:
    """A job that is looked for is not made again because of it."""
    lost = evolve(known, platform_job_id="", repeated=True)
    with pytest.raises(Retriable, match="is not that of a Clara REST API"):
        against(*(answer(page, "200 OK") for page in pages)).cancel(lost)


def test_a_list_without_end_is_left(against: Against, monkeypatch: pytest.MonkeyPatch, known: Job) -> None:
    """A server that always has another page does not keep the submitter for ever."""
    monkeypatch.setattr("dicom_adapter_clara_client.rest_submitter.MOST_PAGES", 5)
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
def test_an_error_page_counts_by_its_status(
    against: Against, script: bytes, expected: type[Exception], known: Job
) -> None:
    """Whatever is in it."""
    with pytest.raises(expected, match=r"the platform answered [45]"):
        against(script).create_job(known)


@pytest.mark.parametrize("script", [html("404 Not Found"), answer({"type": "/problems/not-found"}, "404 Not Found")])
def test_a_wrong_address_is_no_cancelled_job(against: Against, script: bytes, known: Job) -> None:
    """404 means that there is no such job only if it says so."""
    with pytest.raises(Permanent, match="404"):
        against(script).cancel(known)
