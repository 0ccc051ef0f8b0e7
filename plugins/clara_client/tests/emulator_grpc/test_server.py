"""The emulator's gRPC server: records, ports, TLS, stop."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind, Faults
from dicom_adapter_clara_client.emulator.grpc_server import EmulatorTls, serve
from dicom_adapter_clara_client.emulator.record import CallOutcome
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.wire import jobs_pb2
from dicom_adapter_clara_client.wire.codes import ClaraCode
from dicom_adapter_clara_client.wire.jobs_pb2_grpc import JobsStub

LUNG = 32 * "a"


def test_stopping_does_not_wait_for_delays(site: Any) -> None:
    """A stop aborts a delayed call."""
    faults = Faults([CallFault(kind=CallFaultKind.DELAY, seconds=3600)])
    server = serve(EmulatedPlatform(pipelines="any"), faults=faults)
    with grpc.insecure_channel(server.address) as channel:
        call = JobsStub(channel).Create.future(site.create_request())
        grpc.channel_ready_future(channel).result(timeout=30)
        server.stop()
        assert call.exception(timeout=30) is not None


def test_every_call_is_recorded_before_its_response(site: Any) -> None:
    """When a client has a response, the log already has the call, with its ids, sizes and code."""
    job = site.create()
    site.upload(job.payload_id.value, "1", bytes(1000), bytes(1000))
    site.jobs.Status(jobs_pb2.JobsStatusRequest(job_id=site.identifier("bad")))
    list(site.jobs.List(jobs_pb2.JobsListRequest()))
    records = [(record.call, record.outcome, record.code, record.ids) for record in site.log.calls()]
    assert [
        (
            "Jobs.Create",
            CallOutcome.DONE,
            0,
            {"pipelineId": LUNG, "jobId": job.job_id.value, "payloadId": job.payload_id.value},
        ),
        ("Payloads.Upload", CallOutcome.DONE, 0, {"payloadId": job.payload_id.value}),
        ("Jobs.Status", CallOutcome.REFUSED, ClaraCode.JOB_ID_MALFORMED, {"jobId": "bad"}),
        ("Jobs.List", CallOutcome.DONE, 0, {}),
    ] == records
    assert 2000 < site.log.calls("Payloads.Upload")[0].received_bytes < 2300


def test_a_port_in_use_is_refused(site: Any) -> None:
    """Two emulators cannot share a port unnoticed."""
    with pytest.raises(OSError, match="cannot listen"):
        serve(EmulatedPlatform(), site.server.address)


def test_the_server_supports_tls_and_client_certificates(site: Any, tmp_path: Path) -> None:
    """With a client authority, only clients with a certificate of this authority are accepted."""
    certificate, key = _certificate(tmp_path)
    tls = EmulatorTls(certificate=certificate, key=key, client_authority=certificate)
    known = grpc.ssl_channel_credentials(certificate, key, certificate)
    unknown = grpc.ssl_channel_credentials(certificate)
    with serve(EmulatedPlatform(pipelines="any"), tls=tls) as server:
        with grpc.secure_channel(server.address, known) as channel:
            assert 0 == JobsStub(channel).Create(site.create_request()).header.code
        with grpc.secure_channel(server.address, unknown) as channel, pytest.raises(grpc.RpcError):
            JobsStub(channel).Create(site.create_request(), timeout=5)


def _certificate(folder: Path) -> tuple[bytes, bytes]:
    """Return a self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=emulator", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*make, *name, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate.read_bytes(), key.read_bytes()
