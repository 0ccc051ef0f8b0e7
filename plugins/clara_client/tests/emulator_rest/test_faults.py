"""Faults on demand over HTTP, and records of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind
from dicom_adapter_clara_client.emulator.record import CallOutcome
from dicom_adapter_clara_client.emulator.rest_server import serve
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform

PIPELINE = 32 * "a"
BODY = {"pipelineId": PIPELINE, "name": "lung"}
LOST = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


def last(emulator: Any) -> tuple[CallOutcome, str, str, bool]:
    record = emulator.log.calls()[-1]
    return record.outcome, record.fault, record.status, record.worked


@pytest.mark.parametrize(
    ("kind", "worked"), [(CallFaultKind.RESET, False), (CallFaultKind.DROP, True), (CallFaultKind.TRUNCATE, True)]
)
def test_a_fault_can_lose_the_connection(emulator: Any, kind: CallFaultKind, worked: bool) -> None:
    """The connection is lost before or after the work."""
    emulator.faults.add(CallFault(call="Jobs.Create", kind=kind))
    with pytest.raises(LOST):
        emulator.post("/v1/jobs", BODY)
    assert worked == bool(emulator.platform.jobs.list())
    assert (CallOutcome.LOST, kind.value, "", worked) == last(emulator)


def test_a_response_without_a_body_can_be_truncated(emulator: Any) -> None:
    """The emulator then sends half of a substitute body."""
    path = f"/v1/payloads/{emulator.new_job()['payloadId']}/files/input/1"
    emulator.faults.add(CallFault(call="Payloads.Remove", kind=CallFaultKind.TRUNCATE))
    emulator.client.put(path, content=b"x")
    with pytest.raises(LOST):
        emulator.client.delete(path)
    assert (404, "file-not-found") == emulator.problem(emulator.client.get(path))


@pytest.mark.parametrize("kind", [CallFaultKind.DROP, CallFaultKind.TRUNCATE])
def test_a_fault_can_lose_a_download(emulator: Any, kind: CallFaultKind) -> None:
    """The client receives half of the file, or nothing; the next attempt succeeds."""
    path = f"/v1/payloads/{emulator.new_job()['payloadId']}/files/input/1"
    emulator.client.put(path, content=bytes(1_000_000))
    emulator.faults.add(CallFault(call="Payloads.Download", kind=kind))
    received = b""
    with pytest.raises(LOST), emulator.client.stream("GET", path) as answer:
        for piece in answer.iter_bytes():
            received += piece
    assert len(received) < 1_000_000
    assert bytes(1_000_000) == emulator.client.get(path).content


def test_a_truncated_upload_stores_no_file(emulator: Any) -> None:
    """The upload is aborted after its first piece."""
    job = emulator.new_job()
    emulator.faults.add(CallFault(call="Payloads.Upload", kind=CallFaultKind.TRUNCATE))
    with pytest.raises(LOST):
        emulator.client.put(f"/v1/payloads/{job['payloadId']}/files/input/1", content=bytes(3_000_000))
    assert () == emulator.platform.payloads.details(job["payloadId"]).files
    assert (CallOutcome.LOST, "truncate", "", False) == last(emulator)
    assert 0 < emulator.log.calls()[-1].received_bytes < 3_000_000


def test_a_fault_can_return_garbage(emulator: Any) -> None:
    """The work is done, and the response is an unrelated HTML page."""
    emulator.faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.GARBAGE))
    answer = emulator.post("/v1/jobs", BODY)
    assert (200, "text/html; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
    assert 1 == len(emulator.platform.jobs.list())


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
def test_a_fault_can_return_a_status(emulator: Any, status: str | int, expected: int) -> None:
    """The fault has an HTTP status or the name of a gRPC status; the work is not done."""
    emulator.faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.STATUS, status=status))
    answer = emulator.post("/v1/jobs", BODY)
    assert expected == emulator.problem(answer)[0]
    assert ("1" if expected == 503 else None) == answer.headers.get("retry-after")
    assert () == emulator.platform.jobs.list()
    assert (CallOutcome.FAILED, "status", str(expected), False) == last(emulator)


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
def test_a_fault_can_return_a_header_code(emulator: Any, code: int, expected: tuple[int, str]) -> None:
    """The response has the problem for this code."""
    emulator.faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.CODE, code=code, messages=("one", "two")))
    answer = emulator.post("/v1/jobs", BODY)
    assert expected == emulator.problem(answer)
    assert (code, ["one", "two"]) == (answer.json()["claraCode"], answer.json()["messages"])
    assert (CallOutcome.REFUSED, "code", str(expected[0]), False) == last(emulator)


def test_a_fault_can_be_limited_to_a_pipeline(emulator: Any) -> None:
    """The fault applies to all calls with the ids of the pipeline, its jobs and their payloads."""
    job = emulator.new_job()
    emulator.faults.add(CallFault(kind=CallFaultKind.STATUS, times=None, pipeline_id=32 * "b"))
    emulator.faults.add(CallFault(kind=CallFaultKind.STATUS, times=None, pipeline_id=PIPELINE, protocol="rest"))
    calls = [
        emulator.post("/v1/jobs", BODY),
        emulator.post("/v1/jobs", {**BODY, "pipelineId": 32 * "c"}),
        emulator.client.get(f"/v1/jobs/{job['jobId']}"),
        emulator.client.put(f"/v1/payloads/{job['payloadId']}/files/input/1", content=b"x"),
        emulator.client.get("/v1/version"),
    ]
    assert [503, 422, 503, 503, 200] == [answer.status_code for answer in calls]


def test_every_call_is_recorded(emulator: Any) -> None:
    """Records have ids and sizes, but no file names."""
    job = emulator.new_job()
    emulator.client.put(f"/v1/payloads/{job['payloadId']}/files/input/1", content=b"12345")
    emulator.client.get(f"/v1/payloads/{job['payloadId']}/files/input/1")
    emulator.client.get(f"/v1/payloads/{job['payloadId']}/files/input/2")
    ids = {"payloadId": job["payloadId"]}
    expected = [
        ("Jobs.Create", {"pipelineId": PIPELINE, "jobId": job["jobId"], **ids}, CallOutcome.DONE, ""),
        ("Payloads.Upload", ids, CallOutcome.DONE, ""),
        ("Payloads.Download", ids, CallOutcome.DONE, ""),
        ("Payloads.Download", ids, CallOutcome.REFUSED, "404"),
    ]
    records = emulator.log.calls()
    assert expected == [(record.call, record.ids, record.outcome, record.status) for record in records]
    assert [5, 5] == [records[1].received_bytes, records[2].sent_bytes]
    assert {"rest"} == {record.protocol for record in records}


def test_the_token_is_checked_before_faults(make_emulator: Callable[..., Any]) -> None:
    """A call with a wrong token does not count for a fault, but is recorded."""
    emulator = make_emulator(token="s3cret")
    emulator.faults.add(CallFault(kind=CallFaultKind.DROP))
    assert (401, "unauthorized") == emulator.problem(emulator.client.get("/v1/version"))
    assert 1 == len(emulator.faults.left())
    assert (CallOutcome.FAILED, "", "401", False) == last(emulator)


def test_two_servers_can_share_a_platform() -> None:
    """Changes through one server are visible through the other."""
    platform = EmulatedPlatform(pipelines="any")
    with serve(platform) as first, serve(platform) as second:
        job = httpx.post(f"{first.url}/v1/jobs", json=BODY, headers={"Idempotency-Key": '"k"'}, trust_env=False).json()
        seen = httpx.get(f"{second.url}/v1/jobs/{job['jobId']}", trust_env=False)
    assert 200 == seen.status_code
