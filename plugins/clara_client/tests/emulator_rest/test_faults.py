"""Faults on demand over HTTP, as clients see them, and the records of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind
from dicom_adapter_clara_client.emulator.record import CallOutcome
from dicom_adapter_clara_client.emulator.rest_face import serve
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform

PIPELINE = 32 * "a"
BODY = {"pipelineId": PIPELINE, "name": "lung"}
LOST = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


def last(face: Any) -> tuple[CallOutcome, str, str, bool]:
    record = face.log.calls()[-1]
    return record.outcome, record.fault, record.status, record.worked


@pytest.mark.parametrize(
    ("kind", "worked"), [(CallFaultKind.RESET, False), (CallFaultKind.DROP, True), (CallFaultKind.TRUNCATE, True)]
)
def test_a_connection_is_lost(face: Any, kind: CallFaultKind, worked: bool) -> None:
    """Before the work, or after it."""
    face.faults.add(CallFault(call="Jobs.Create", kind=kind))
    with pytest.raises(LOST):
        face.post("/v1/jobs", BODY)
    assert worked == bool(face.platform.jobs.list())
    assert (CallOutcome.LOST, kind.value, "", worked) == last(face)


def test_an_answer_without_a_body_is_cut_too(face: Any) -> None:
    """There is always something that does not come."""
    path = f"/v1/payloads/{face.new_job()['payloadId']}/files/input/1"
    face.faults.add(CallFault(call="Payloads.Remove", kind=CallFaultKind.TRUNCATE))
    face.client.put(path, content=b"x")
    with pytest.raises(LOST):
        face.client.delete(path)
    assert (404, "file-not-found") == face.problem(face.client.get(path))


@pytest.mark.parametrize("kind", [CallFaultKind.DROP, CallFaultKind.TRUNCATE])
def test_a_download_is_lost(face: Any, kind: CallFaultKind) -> None:
    """Half of it arrives, or nothing; the file is there for the next try."""
    path = f"/v1/payloads/{face.new_job()['payloadId']}/files/input/1"
    face.client.put(path, content=bytes(1_000_000))
    face.faults.add(CallFault(call="Payloads.Download", kind=kind))
    received = b""
    with pytest.raises(LOST), face.client.stream("GET", path) as answer:
        for piece in answer.iter_bytes():
            received += piece
    assert len(received) < 1_000_000
    assert bytes(1_000_000) == face.client.get(path).content


def test_an_upload_is_cut_after_its_first_piece(face: Any) -> None:
    """Nothing of it is kept."""
    job = face.new_job()
    face.faults.add(CallFault(call="Payloads.Upload", kind=CallFaultKind.TRUNCATE))
    with pytest.raises(LOST):
        face.client.put(f"/v1/payloads/{job['payloadId']}/files/input/1", content=bytes(3_000_000))
    assert () == face.platform.payloads.details(job["payloadId"]).files
    assert (CallOutcome.LOST, "truncate", "", False) == last(face)
    assert 0 < face.log.calls()[-1].received_bytes < 3_000_000


def test_an_answer_is_garbage(face: Any) -> None:
    """The work is done, and the answer is a page of something else."""
    face.faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.GARBAGE))
    answer = face.post("/v1/jobs", BODY)
    assert (200, "text/html; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
    assert 1 == len(face.platform.jobs.list())


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (503, 503),
        ("503", 503),
        (418, 418),
        ("UNAVAILABLE", 503),
        ("DEADLINE_EXCEEDED", 504),
        ("UNAUTHENTICATED", 401),
        ("NO_SUCH_STATUS", 500),
    ],
)
def test_a_status_is_demanded(face: Any, status: str | int, expected: int) -> None:
    """By its number, or as gRPC calls it; nothing is done."""
    face.faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.STATUS, status=status))
    answer = face.post("/v1/jobs", BODY)
    assert expected == face.problem(answer)[0]
    assert ("1" if expected == 503 else None) == answer.headers.get("retry-after")
    assert () == face.platform.jobs.list()
    assert (CallOutcome.FAILED, "status", str(expected), False) == last(face)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (-0x1000, (400, "id-malformed")),
        (-0x2001, (404, "job-not-found")),
        (-0x2100, (422, "job-name-invalid")),
        (-0x2900, (409, "job-not-pending")),
        (-0x2002, (500, "failed")),
        (-0x1234, (500, "failed")),
    ],
)
def test_a_code_is_demanded(face: Any, code: int, expected: tuple[int, str]) -> None:
    """It comes with the problem that belongs to it."""
    face.faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.CODE, code=code, messages=("one", "two")))
    answer = face.post("/v1/jobs", BODY)
    assert expected == face.problem(answer)
    assert (code, ["one", "two"]) == (answer.json()["claraCode"], answer.json()["messages"])
    assert (CallOutcome.REFUSED, "code", str(expected[0]), False) == last(face)


def test_a_fault_is_about_one_pipeline(face: Any) -> None:
    """Its jobs and their payloads, in all calls."""
    job = face.new_job()
    face.faults.add(CallFault(kind=CallFaultKind.STATUS, times=None, pipeline_id=32 * "b"))
    face.faults.add(CallFault(kind=CallFaultKind.STATUS, times=None, pipeline_id=PIPELINE, face="rest"))
    calls = [
        face.post("/v1/jobs", BODY),
        face.post("/v1/jobs", {**BODY, "pipelineId": 32 * "c"}),
        face.client.get(f"/v1/jobs/{job['jobId']}"),
        face.client.put(f"/v1/payloads/{job['payloadId']}/files/input/1", content=b"x"),
        face.client.get("/v1/version"),
    ]
    assert [503, 422, 503, 503, 200] == [answer.status_code for answer in calls]


def test_every_call_is_written_down(face: Any) -> None:
    """With its ids and sizes, without names of files."""
    job = face.new_job()
    face.client.put(f"/v1/payloads/{job['payloadId']}/files/input/1", content=b"12345")
    face.client.get(f"/v1/payloads/{job['payloadId']}/files/input/1")
    face.client.get(f"/v1/payloads/{job['payloadId']}/files/input/2")
    ids = {"payloadId": job["payloadId"]}
    expected = [
        ("Jobs.Create", {"pipelineId": PIPELINE, "jobId": job["jobId"], **ids}, CallOutcome.DONE, ""),
        ("Payloads.Upload", ids, CallOutcome.DONE, ""),
        ("Payloads.Download", ids, CallOutcome.DONE, ""),
        ("Payloads.Download", ids, CallOutcome.REFUSED, "404"),
    ]
    records = face.log.calls()
    assert expected == [(record.call, record.ids, record.outcome, record.status) for record in records]
    assert [5, 5] == [records[1].received_bytes, records[2].sent_bytes]
    assert {"rest"} == {record.face for record in records}


def test_a_token_is_asked_for_before_anything_else(make_face: Callable[..., Any]) -> None:
    """Also before the faults, and it is written down."""
    face = make_face(token="s3cret")
    face.faults.add(CallFault(kind=CallFaultKind.DROP))
    assert (401, "unauthorized") == face.problem(face.client.get("/v1/version"))
    assert 1 == len(face.faults.left())
    assert (CallOutcome.FAILED, "", "401", False) == last(face)


def test_two_servers_share_one_platform() -> None:
    """What is done through one is seen through the other."""
    platform = EmulatedPlatform(pipelines="any")
    with serve(platform) as one, serve(platform) as two:
        made = httpx.post(f"{one.url}/v1/jobs", json=BODY, headers={"Idempotency-Key": '"k"'}, trust_env=False).json()
        seen = httpx.get(f"{two.url}/v1/jobs/{made['jobId']}", trust_env=False)
    assert 200 == seen.status_code
