"""Files and payloads on the emulator's REST face."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PIPELINE = 32 * "a"
NOBODY = 32 * "0"


@pytest.fixture
def files(face: Any) -> str:
    """The path below which the files of a new job are."""
    return f"/v1/payloads/{face.new_job()['payloadId']}/files"


def test_a_file_is_written_and_replaced(face: Any, files: str) -> None:
    """The first PUT makes it (201), the second one takes its place (204)."""
    answers = [face.client.put(f"{files}/input/dcm/1.dcm", content=data) for data in (b"first", b"second")]
    read = face.client.get(f"{files}/input/dcm/1.dcm")
    assert [201, 204] == [answer.status_code for answer in answers]
    assert f"{files}/input/dcm/1.dcm" == answers[0].headers["location"]
    assert (b"second", "application/octet-stream") == (read.content, read.headers["content-type"])


def test_a_file_can_be_empty(face: Any, files: str) -> None:
    """Nothing is content, too."""
    assert 201 == face.client.put(f"{files}/input/empty", content=b"").status_code
    assert b"" == face.client.get(f"{files}/input/empty").content


def test_a_large_file_comes_back_as_it_was(face: Any, files: str, tmp_path: Path) -> None:
    """It goes both ways in pieces, with or without a declared length."""
    data = bytes(range(256)) * 20_000
    face.client.put(f"{files}/input/large", content=iter([data[:1_000_000], data[1_000_000:]]))
    assert data == face.client.get(f"{files}/input/large").content


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
def test_a_range_of_a_file_is_read(face: Any, files: str, wanted: str, status: int, expected: bytes) -> None:
    """What is no single range of bytes is answered with the whole file."""
    face.client.put(f"{files}/input/digits", content=b"0123456789")
    answer = face.client.get(f"{files}/input/digits", headers={"Range": wanted})
    assert (status, expected) == (answer.status_code, answer.content)


def test_a_range_behind_the_end_is_refused(face: Any, files: str) -> None:
    """The answer tells how long the file is."""
    face.client.put(f"{files}/input/digits", content=b"0123456789")
    answer = face.client.get(f"{files}/input/digits", headers={"Range": "bytes=10-"})
    assert (416, "range") == face.problem(answer)
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
def test_a_path_that_cannot_be_written_is_refused(face: Any, files: str, path: str, expected: tuple[int, str]) -> None:
    """Only input/ of a job's payload takes files, under names that are safe."""
    face.client.put(f"{files}/input/1.dcm", content=b"x")
    assert expected == face.problem(face.client.put(f"{files}/{path}", content=b"x" * 1_000_000))


def test_a_started_job_takes_no_files(face: Any) -> None:
    """Its payload is read-only, for writing and removing alike."""
    job = face.new_job()
    path = f"/v1/payloads/{job['payloadId']}/files/input/1.dcm"
    face.client.put(path, content=b"x")
    face.post(f"/v1/jobs/{job['jobId']}:start")
    refused = [face.client.put(path, content=b"y"), face.client.delete(path)]
    assert [(409, "payload-read-only")] * 2 == [face.problem(answer) for answer in refused]


def test_a_file_is_not_replaced_against_the_clients_will(face: Any, files: str) -> None:
    """If-None-Match: * writes new files only."""
    only_new = {"If-None-Match": "*"}
    first, second = (face.client.put(f"{files}/input/1", content=b"x", headers=only_new) for _ in range(2))
    assert 201 == first.status_code
    assert (412, "file-present") == face.problem(second)


def test_a_digest_is_checked(face: Any, files: str) -> None:
    """A body that does not have its Content-Digest leaves nothing."""
    digest = base64.b64encode(hashlib.sha256(b"right").digest()).decode()
    headers = {"Content-Digest": f"md5=:AAAA:, sha-256=:{digest}:"}
    right, wrong = (
        face.client.put(f"{files}/input/{d}", content=d.encode(), headers=headers) for d in ("right", "wrong")
    )
    malformed = face.client.put(f"{files}/input/x", content=b"", headers={"Content-Digest": "sha-256=x"})
    assert 201 == right.status_code
    assert (422, "digest-mismatch") == face.problem(wrong)
    assert (400, "bad-request") == face.problem(malformed)
    assert (404, "file-not-found") == face.problem(face.client.get(f"{files}/input/wrong"))


def test_a_file_that_is_too_large_is_refused(make_face: Callable[..., Any]) -> None:
    """The client has sent all of it and reads the answer."""
    face = make_face(largest_file_bytes=1000)
    path = f"/v1/payloads/{face.new_job()['payloadId']}/files/input/large"
    assert (413, "too-large") == face.problem(face.client.put(path, content=b"x" * 5_000_000))


def test_an_upload_that_breaks_off_leaves_nothing(face: Any, files: str) -> None:
    """A client that goes away in the middle of a file has not uploaded it."""

    def breaking() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise KeyError("the client is gone")

    with pytest.raises(KeyError):
        face.client.put(f"{files}/input/1", content=breaking(), headers={"Content-Length": "200000"})
    record = face.log.wait_for("Payloads.Upload")[0]
    assert ("failed", "cut off by the client") == (record.outcome.value, record.status)
    assert (404, "file-not-found") == face.problem(face.client.get(f"{files}/input/1"))


def test_files_and_payloads_are_removed(face: Any) -> None:
    """DELETE takes them away."""
    payload = face.post("/v1/payloads").json()["payloadId"]
    path = f"/v1/payloads/{payload}"
    face.client.put(f"{path}/files/a/b", content=b"x")
    assert [204, 204] == [face.client.delete(p).status_code for p in (f"{path}/files/a/b", path)]
    assert (404, "payload-not-found") == face.problem(face.client.get(path))


def test_the_payload_of_a_job_that_goes_on_stays(face: Any) -> None:
    """It is deleted when the job has stopped, not before."""
    job = face.new_job()
    early = face.client.delete(f"/v1/payloads/{job['payloadId']}")
    face.client.post(f"/v1/jobs/{job['jobId']}:cancel")
    late = face.client.delete(f"/v1/payloads/{job['payloadId']}")
    assert 409 == face.problem(early)[0]
    assert 204 == late.status_code
