"""Files and payloads of the emulator's REST API."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def files(emulator: Any) -> str:
    """Return the path of the files of a new job."""
    return f"/v1/payloads/{emulator.new_job()['payloadId']}/files"


def test_a_file_is_written_and_replaced(emulator: Any, files: str) -> None:
    """The first PUT creates the file (201), the second replaces it (204)."""
    answers = [emulator.client.put(f"{files}/input/dcm/1.dcm", content=data) for data in (b"first", b"second")]
    read = emulator.client.get(f"{files}/input/dcm/1.dcm")
    assert [201, 204] == [answer.status_code for answer in answers]
    assert f"{files}/input/dcm/1.dcm" == answers[0].headers["location"]
    assert (b"second", "application/octet-stream") == (read.content, read.headers["content-type"])


def test_a_file_can_be_empty(emulator: Any, files: str) -> None:
    """A file may have no bytes."""
    assert 201 == emulator.client.put(f"{files}/input/empty", content=b"").status_code
    assert b"" == emulator.client.get(f"{files}/input/empty").content


def test_a_large_file_is_downloaded_unchanged(emulator: Any, files: str, tmp_path: Path) -> None:
    """The file is uploaded in two pieces, without a Content-Length."""
    data = bytes(range(256)) * 20_000
    emulator.client.put(f"{files}/input/large", content=iter([data[:1_000_000], data[1_000_000:]]))
    assert data == emulator.client.get(f"{files}/input/large").content


@pytest.mark.parametrize(
    ("wanted", "status", "expected"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=5-500", 206, b"56789"),
        ("bytes=3-1", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_a_range_of_a_file_is_read(emulator: Any, files: str, wanted: str, status: int, expected: bytes) -> None:
    """If the header is not a single range of bytes, the response is the whole file."""
    emulator.client.put(f"{files}/input/digits", content=b"0123456789")
    answer = emulator.client.get(f"{files}/input/digits", headers={"Range": wanted})
    assert (status, expected) == (answer.status_code, answer.content)


def test_a_range_after_the_end_is_refused(emulator: Any, files: str) -> None:
    """The header Content-Range of the response contains the length of the file."""
    emulator.client.put(f"{files}/input/digits", content=b"0123456789")
    answer = emulator.client.get(f"{files}/input/digits", headers={"Range": "bytes=10-"})
    assert (416, "range") == emulator.problem(answer)
    assert "bytes */10" == answer.headers["content-range"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("operators/x/out", (409, "path-read-only")),
        ("out", (409, "path-read-only")),
        ("input/%2e%2e/x", (422, "path-invalid")),
        ("input/a%00b", (422, "path-invalid")),
        ("input/" + 256 * "x", (422, "path-invalid")),
        ("input/1.dcm/x", (409, "path-taken")),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(
    emulator: Any, files: str, path: str, expected: tuple[int, str]
) -> None:
    """Only input/ of a job's payload accepts files, and only with safe names."""
    emulator.client.put(f"{files}/input/1.dcm", content=b"x")
    assert expected == emulator.problem(emulator.client.put(f"{files}/{path}", content=b"x" * 1_000_000))


def test_a_started_job_accepts_no_files(emulator: Any) -> None:
    """The payload of the job is read-only: writing and removing are refused."""
    job = emulator.new_job()
    path = f"/v1/payloads/{job['payloadId']}/files/input/1.dcm"
    emulator.client.put(path, content=b"x")
    emulator.post(f"/v1/jobs/{job['jobId']}:start")
    refused = [emulator.client.put(path, content=b"y"), emulator.client.delete(path)]
    assert [(409, "payload-read-only")] * 2 == [emulator.problem(answer) for answer in refused]


def test_if_none_match_prevents_the_replacement_of_a_file(emulator: Any, files: str) -> None:
    """`If-None-Match: *` only creates new files."""
    only_new = {"If-None-Match": "*"}
    first, second = (emulator.client.put(f"{files}/input/1", content=b"x", headers=only_new) for _ in range(2))
    assert 201 == first.status_code
    assert (412, "file-present") == emulator.problem(second)


def test_a_digest_is_checked(emulator: Any, files: str) -> None:
    """A body that does not match its Content-Digest is not stored."""
    digest = base64.b64encode(hashlib.sha256(b"right").digest()).decode()
    headers = {"Content-Digest": f"md5=:AAAA:, sha-256=:{digest}:"}
    right, wrong = (
        emulator.client.put(f"{files}/input/{d}", content=d.encode(), headers=headers) for d in ("right", "wrong")
    )
    malformed = emulator.client.put(f"{files}/input/x", content=b"", headers={"Content-Digest": "sha-256=x"})
    assert 201 == right.status_code
    assert (422, "digest-mismatch") == emulator.problem(wrong)
    assert (400, "bad-request") == emulator.problem(malformed)
    assert (404, "file-not-found") == emulator.problem(emulator.client.get(f"{files}/input/wrong"))


def test_a_file_that_is_too_large_is_refused(make_emulator: Callable[..., Any]) -> None:
    """The emulator reads the whole body: a client may read the response only after it has sent everything."""
    emulator = make_emulator(largest_file_bytes=1000)
    path = f"/v1/payloads/{emulator.new_job()['payloadId']}/files/input/large"
    assert (413, "too-large") == emulator.problem(emulator.client.put(path, content=b"x" * 5_000_000))


def test_an_interrupted_upload_stores_no_file(emulator: Any, files: str) -> None:
    """The client disconnects in the middle of the file."""

    def breaking() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise KeyError("the client is gone")

    with pytest.raises(KeyError):
        emulator.client.put(f"{files}/input/1", content=breaking(), headers={"Content-Length": "200000"})
    record = emulator.log.wait_for("Payloads.Upload")[0]
    assert ("failed", "aborted by the client") == (record.outcome.value, record.status)
    assert (404, "file-not-found") == emulator.problem(emulator.client.get(f"{files}/input/1"))


def test_files_and_payloads_are_removed(emulator: Any) -> None:
    """DELETE removes files and payloads."""
    payload = emulator.post("/v1/payloads").json()["payloadId"]
    path = f"/v1/payloads/{payload}"
    emulator.client.put(f"{path}/files/a/b", content=b"x")
    assert [204, 204] == [emulator.client.delete(p).status_code for p in (f"{path}/files/a/b", path)]
    assert (404, "payload-not-found") == emulator.problem(emulator.client.get(path))


def test_the_payload_of_an_unfinished_job_cannot_be_deleted(emulator: Any) -> None:
    """The payload can be deleted after the job has stopped."""
    job = emulator.new_job()
    early = emulator.client.delete(f"/v1/payloads/{job['payloadId']}")
    emulator.client.post(f"/v1/jobs/{job['jobId']}:cancel")
    late = emulator.client.delete(f"/v1/payloads/{job['payloadId']}")
    assert 409 == emulator.problem(early)[0]
    assert 204 == late.status_code
