"""The gRPC API over a TCP port, called with the client that is generated from the `.proto`."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dicom_adapter import Refused, Secret
from dicom_adapter.testing import make_study
from dicom_adapter_cache import grpc_interceptors, grpc_server
from dicom_adapter_cache.settings import GrpcSettings
from dicom_adapter_cache.wire import cache_pb2 as pb
from dicom_adapter_cache.wire.cache_pb2_grpc import CacheStub

TOKEN = "0123456789abcdef"
AUTHORIZATION = (("authorization", f"Bearer {TOKEN}"),)
LIMIT_S = 20.0  # time limit for a call
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # an empty frame
HALF_HEADERS = b"\0\0\x64\1\4\0\0\0\1\x82"  # a frame of 100 bytes, of which one is sent
Serve = Callable[..., SimpleNamespace]


def test_studies_are_searched_composed_and_deleted(serve: Serve) -> None:
    """gRPC offers the same operations as REST."""
    served = serve()
    site, stub = served.site, served.stub
    site.receive(*make_study(study_uid="1.1", series=2, instances=2, patient_id="P-1"))
    site.receive(*make_study(study_uid="1.2", patient_id="P-2"))

    assert ["1.2", "1.1"] == [each.study_instance_uid for each in stub.SearchStudies(pb.SearchStudiesRequest())]
    [study] = stub.SearchStudies(pb.SearchStudiesRequest(patient_id="p?1", limit=5))
    assert (["CT"], 4) == (list(study.modalities), study.instances)
    assert ["P-1", "P-2"] == [each.patient_id for each in stub.SearchPatients(pb.SearchStudiesRequest())]
    detail = stub.GetStudy(pb.StudyRequest(study_instance_uid="1.1"))
    assert [2, 2] == [series.instances for series in detail.series]
    instances = list(stub.ListInstances(pb.ListInstancesRequest(study_instance_uid="1.1")))
    pieces = stub.Download(pb.DownloadRequest(sop_instance_uid=instances[0].sop_instance_uid))
    assert instances[0].size_bytes == len(b"".join(piece.content for piece in pieces))

    assert stub.PinStudy(pb.PinStudyRequest(study_instance_uid="1.2", pinned=True)).pinned
    request = pb.ComposeRequest(
        pipeline="p", name="job", studies=["1.1"], priority=pb.PRIORITY_HIGHER, clean_up=True, idempotency_key="k"
    )
    job = stub.Compose(request)
    assert (4, pb.PRIORITY_HIGHER) == (job.instances, job.priority)
    assert job.job_id == stub.Compose(request).job_id
    assert "submitted" == stub.GetJob(pb.JobRequest(job_id=job.job_id)).state
    assert [job.job_id] == [each.job_id for each in stub.ListJobs(pb.ListJobsRequest())]
    stub.DeleteStudy(pb.StudyRequest(study_instance_uid="1.2"))
    assert ([], {"reclaimed": 8}) == (list(stub.SearchStudies(pb.SearchStudiesRequest())), site.adapter.states)


def test_long_lists_are_streamed_completely(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server reads the index page by page; limit and offset apply to the whole list."""
    from dicom_adapter_cache import values

    monkeypatch.setattr(values, "LARGEST_PAGE", 2)
    served = serve()
    uids = [f"1.{number}" for number in range(5)]
    for uid in uids:
        served.site.receive(*make_study(study_uid=uid, instances=1))

    def search(**request: int) -> list[str]:
        return [each.study_instance_uid for each in served.stub.SearchStudies(pb.SearchStudiesRequest(**request))]

    assert uids[::-1] == search()
    assert uids[::-1][1:4] == search(offset=1, limit=3)


@pytest.mark.parametrize(
    ("call", "code", "problem"),
    [
        (lambda stub: stub.GetStudy(pb.StudyRequest(study_instance_uid="9.9")), "NOT_FOUND", "unknown"),
        (lambda stub: stub.GetJob(pb.JobRequest(job_id="../x")), "NOT_FOUND", "unknown"),
        (lambda stub: list(stub.SearchStudies(pb.SearchStudiesRequest(study_date="x"))), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: list(stub.SearchStudies(pb.SearchStudiesRequest(limit=-1))), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: list(stub.ListJobs(pb.ListJobsRequest(limit=-1))), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: stub.Compose(pb.ComposeRequest(pipeline="p", name="n")), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: stub.Compose(pb.ComposeRequest(name="n", studies=["1"])), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: stub.Compose(composing(studies=["x'--"])), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: stub.Compose(composing(studies=["1.1\n"])), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: stub.Compose(composing(name="a\n")), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: stub.Compose(composing(priority=99)), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: stub.Compose(composing(idempotency_key="é")), "INVALID_ARGUMENT", "invalid"),
        (lambda stub: stub.Compose(composing(studies=["9.9"])), "NOT_FOUND", "unknown"),
        (lambda stub: stub.Compose(composing(submitter="none")), "FAILED_PRECONDITION", "refused"),
    ],
)
def test_errors_have_a_status_code_and_a_problem(serve: Serve, call: Any, code: str, problem: str) -> None:
    """The trailing metadata `problem` identifies the error for programs."""
    served = serve()
    served.site.receive(*make_study(study_uid="1.1", instances=1))
    with pytest.raises(grpc.RpcError) as failed:
        call(served.stub)
    assert (code, problem) == (failed.value.code().name, dict(failed.value.trailing_metadata()).get("problem"))


def composing(**more: Any) -> pb.ComposeRequest:
    return pb.ComposeRequest(**{"pipeline": "p", "name": "n", "studies": ["1.1"], **more})


def test_the_size_of_a_request_is_limited(serve: Serve) -> None:
    """Requests contain only UIDs and texts, so 1 MiB is enough."""
    with pytest.raises(grpc.RpcError) as failed:
        serve().stub.Compose(composing(name="x" * 2**21))
    assert grpc.StatusCode.RESOURCE_EXHAUSTED is failed.value.code()


@pytest.mark.parametrize(
    ("method", "is_stream"),
    [
        ("/dicom_adapter.cache.v1.Cache/Compose", False),
        ("/dicom_adapter.cache.v1.Cache/SearchStudies", False),
        ("/dicom_adapter.cache.v1.Cache/Download", False),
        ("/grpc.health.v1.Health/Check", False),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", True),
    ],
)
@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff", b"\x0b" * 200, b"no message"])
def test_a_message_that_cannot_be_decoded_is_an_invalid_argument(
    serve: Serve, method: str, is_stream: bool, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a message is an error of the client: it is not logged as an error of the server.

    Verified to fail with gRPC's own decoding.
    """
    channel = serve().channel
    call = channel.stream_stream(method) if is_stream else channel.unary_stream(method)
    with pytest.raises(grpc.RpcError) as failed:
        list(call(iter([message]) if is_stream else message, timeout=LIMIT_S))
    assert grpc.StatusCode.INVALID_ARGUMENT is failed.value.code()
    assert [] == caplog.messages


def receive(connection: socket.socket) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def connect(served: SimpleNamespace) -> socket.socket:
    host, port = served.address.split(":")
    return socket.create_connection((host, int(port)), timeout=LIMIT_S)


def test_connections_beyond_the_limit_are_closed_at_once(serve: Serve) -> None:
    """A connection that is closed frees its place.

    Verified to fail without the limit.
    """
    served = serve(max_connections=2)
    assert [] == list(served.stub.SearchStudies(pb.SearchStudiesRequest()))
    with connect(served) as second:
        with connect(served) as refused:
            assert b"" == receive(refused)
        second.sendall(b"no HTTP/2" * 10)
        receive(second)  # until it is closed
    with grpc.insecure_channel(served.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = CacheStub(channel).SearchStudies(pb.SearchStudiesRequest(), wait_for_ready=True, timeout=LIMIT_S)
        assert [] == list(call)


@pytest.mark.parametrize("sent", [b"", b"P", PREFACE, PREFACE + SETTINGS, PREFACE + SETTINGS + HALF_HEADERS])
def test_a_connection_without_a_call_is_closed(serve: Serve, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client stops before the first byte, in the handshake, before a call, or in the headers of a call.

    Verified to fail without the time limits of the handshake and of idle connections.
    """
    monkeypatch.setattr(grpc_server, "HANDSHAKE_MS", 100)
    monkeypatch.setattr(grpc_server, "IDLE_MS", 100)
    with connect(serve()) as connection:
        connection.sendall(sent)
        receive(connection)  # until it is closed


def test_a_call_whose_message_does_not_arrive_is_ended(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an end, the call would occupy a thread for ever, and 16 such calls all threads of the API.

    Verified to fail without the time limit for the message.
    """
    monkeypatch.setattr(grpc_interceptors, "MESSAGE_S", 0.1)
    served = serve()
    finish = threading.Event()
    calls = [open_without_message(served, finish) for _number in range(grpc_server.THREADS)]
    assert [] == list(served.stub.SearchStudies(pb.SearchStudiesRequest(), timeout=LIMIT_S))
    assert {grpc.StatusCode.CANCELLED} == {call.code() for call in calls}
    finish.set()


def test_calls_without_the_token_occupy_no_thread(serve: Serve) -> None:
    """The calls are refused before a message arrives.

    Verified to fail when the refusal waits for the message.
    """
    served = serve(token=Secret(TOKEN))
    finish = threading.Event()
    calls = [open_without_message(served, finish) for _number in range(grpc_server.THREADS)]
    assert {grpc.StatusCode.UNAUTHENTICATED} == {call.code() for call in calls}
    finish.set()


def open_without_message(served: SimpleNamespace, finish: threading.Event) -> Any:
    """Start a call that sends no message until `finish` is set."""

    def messages() -> Iterator[bytes]:
        finish.wait(LIMIT_S)
        yield from ()

    call = served.channel.stream_unary("/dicom_adapter.cache.v1.Cache/GetJob")
    return call.future(messages(), timeout=LIMIT_S)


@pytest.mark.parametrize("shown", [None, (), (("authorization", "Bearer x"),), (*AUTHORIZATION, *AUTHORIZATION)])
def test_calls_without_the_token_are_refused(serve: Serve, shown: Any) -> None:
    """The token is required for the API and for health checks."""
    served = serve(token=Secret(TOKEN))
    for call in (
        lambda: list(served.stub.SearchStudies(pb.SearchStudiesRequest(), metadata=shown)),
        lambda: health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest(), metadata=shown),
    ):
        with pytest.raises(grpc.RpcError) as failed:
            call()
        assert grpc.StatusCode.UNAUTHENTICATED is failed.value.code()
    assert [] == list(served.stub.SearchStudies(pb.SearchStudiesRequest(), metadata=AUTHORIZATION))


def test_health_and_reflection_are_served(serve: Serve) -> None:
    """Standard gRPC tools use both services."""
    channel = serve().channel
    service = "dicom_adapter.cache.v1.Cache"
    state = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service)).status
    assert health_pb2.HealthCheckResponse.SERVING == state
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    [answer] = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    assert service in [each.name for each in answer.list_services_response.service]


def test_a_port_in_use_is_refused(serve: Serve) -> None:
    """The error names the AE title and the address."""
    error = "gRPC of AE title 'CACHE': cannot listen at"
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Refused, match=error):
        serve(port=other.getsockname()[1])


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({"bind": "0.0.0.0"}, "needs a token"),
        ({"certificate_file": Path("x")}, "belong together"),
    ],
)
def test_unsafe_or_incomplete_settings_are_refused(table: dict[str, Any], rule: str) -> None:
    """The settings are checked before a port is opened."""
    with pytest.raises(ValueError, match=rule):
        GrpcSettings(port=1, **table)


def test_the_command_line_does_not_load_grpc() -> None:
    """Importing gRPC takes about a second, which would slow down every command."""
    loaded = "import sys, dicom_adapter_cache as c; list(c.dicom_adapter_commands()); print('grpc' in sys.modules)"
    assert "False" == subprocess.check_output([sys.executable, "-c", loaded], text=True).strip()
