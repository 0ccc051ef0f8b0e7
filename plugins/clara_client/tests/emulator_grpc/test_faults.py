"""Faults on demand over gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind
from dicom_adapter_clara_client.emulator.record import CallOutcome
from dicom_adapter_clara_client.wire import payloads_pb2
from dicom_adapter_clara_client.wire.codes import ClaraCode

LUNG = 32 * "a"
HEART = 32 * "b"
MIB = 1 << 20


def test_after_a_dropped_response_the_work_is_done(site: Any) -> None:
    """The client's connection is lost, but the platform has the job."""
    site.faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.DROP))
    with pytest.raises(grpc.RpcError) as error:
        site.create()
    assert (grpc.StatusCode.UNAVAILABLE, 1) == (error.value.code(), len(site.platform.jobs.list()))
    [record] = site.log.calls()
    [job] = site.platform.jobs.list()
    expected_ids = {"pipelineId": LUNG, "jobId": job.job_id, "payloadId": job.payload_id}
    assert (CallOutcome.LOST, "drop", True, expected_ids) == (record.outcome, record.fault, record.worked, record.ids)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (CallFault(kind=CallFaultKind.RESET), grpc.StatusCode.UNAVAILABLE),
        (CallFault(kind=CallFaultKind.STATUS, status="RESOURCE_EXHAUSTED"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (CallFault(kind=CallFaultKind.STATUS, status=503), grpc.StatusCode.UNAVAILABLE),
        (CallFault(kind=CallFaultKind.STATUS, status="NO_SUCH_STATUS"), grpc.StatusCode.UNKNOWN),
    ],
)
def test_faults_before_the_work_change_nothing(site: Any, fault: CallFault, status: grpc.StatusCode) -> None:
    """The client receives an error status, and the platform does nothing."""
    site.faults.add(fault)
    with pytest.raises(grpc.RpcError) as error:
        site.create()
    [record] = site.log.calls()
    assert (status, (), False) == (error.value.code(), site.platform.jobs.list(), record.worked)


def test_a_fault_can_return_a_header_code(site: Any) -> None:
    """The response is a refusal with the code and messages of the fault."""
    site.faults.add(CallFault(kind=CallFaultKind.CODE, code=ClaraCode.JOB_NOT_STORED, messages=("disk full",)))
    answer = site.create()
    assert (ClaraCode.JOB_NOT_STORED, ["disk full"]) == (answer.header.code, list(answer.header.messages))
    assert 0 == site.create().header.code


@pytest.mark.parametrize("kind", [CallFaultKind.GARBAGE, CallFaultKind.TRUNCATE])
def test_a_fault_can_make_a_response_unreadable(site: Any, kind: CallFaultKind) -> None:
    """The client cannot parse the response, but the work is done."""
    site.faults.add(CallFault(kind=kind))
    with pytest.raises(grpc.RpcError) as error:
        site.create()
    assert (grpc.StatusCode.INTERNAL, 1) == (error.value.code(), len(site.platform.jobs.list()))


def test_a_truncated_upload_stores_no_file(site: Any) -> None:
    """The upload is aborted after its first piece; the next attempt stores the file."""
    job = site.create()
    site.faults.add(CallFault(call="Payloads.Upload", kind=CallFaultKind.TRUNCATE))
    with pytest.raises(grpc.RpcError):
        site.upload(job.payload_id.value, "1", b"a", b"b")
    assert [] == site.files(job.payload_id.value)
    assert 2 == site.upload(job.payload_id.value, "1", b"a", b"b").details.size


@pytest.mark.parametrize(("size", "received"), [(10, 5), (3 * MIB, 2 * MIB)])
def test_a_truncated_download_ends_early_with_status_ok(site: Any, size: int, received: int) -> None:
    """The details have the whole size, so only a client that counts the bytes detects the truncation."""
    job = site.create()
    site.upload(job.payload_id.value, "1", bytes(size))
    site.faults.add(CallFault(call="Payloads.Download", kind=CallFaultKind.TRUNCATE))
    answers = list(
        site.payloads.Download(payloads_pb2.PayloadsDownloadRequest(payload_id=job.payload_id, name="input/1"))
    )
    assert (size, received) == (answers[0].details.size, sum(len(answer.data) for answer in answers))


def test_a_delayed_call_is_still_performed(site: Any) -> None:
    """A client with a short deadline gives up, but the platform performs the call after the delay."""
    site.faults.add(CallFault(call="Jobs.Create", kind=CallFaultKind.DELAY, seconds=0.3))
    with pytest.raises(grpc.RpcError) as error:
        site.jobs.Create(site.create_request(), timeout=0.1)
    assert grpc.StatusCode.DEADLINE_EXCEEDED == error.value.code()
    site.log.wait_for("Jobs.Create")
    assert 1 == len(site.platform.jobs.list())


def test_faults_of_a_pipeline_apply_to_uploads_to_its_jobs(site: Any) -> None:
    """An upload names only a payload; its pipeline is that of the payload's job."""
    lung, heart = site.create(LUNG), site.create(HEART)
    site.faults.add(CallFault(call="Payloads.Upload", kind=CallFaultKind.RESET, times=None, pipeline_id=LUNG))
    assert 1 == site.upload(heart.payload_id.value, "1", b"x").details.size
    with pytest.raises(grpc.RpcError):
        site.upload(lung.payload_id.value, "1", b"x")
