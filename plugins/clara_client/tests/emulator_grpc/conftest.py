"""A running emulator with gRPC, and a client's stubs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

import grpc
import pytest
from attrs import field, frozen

from dicom_adapter_clara_client.emulator.faults import Faults
from dicom_adapter_clara_client.emulator.grpc_server import EmulatorGrpcServer, serve
from dicom_adapter_clara_client.emulator.record import CallLog
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.wire import common_pb2, jobs_pb2, payloads_pb2
from dicom_adapter_clara_client.wire.jobs_pb2_grpc import JobsStub
from dicom_adapter_clara_client.wire.payloads_pb2_grpc import PayloadsStub
from dicom_adapter_clara_client.wire.pipelines_pb2_grpc import PipelinesStub

LUNG = 32 * "a"
HEART = 32 * "b"
NOON = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)


@frozen(kw_only=True)
class Site:
    """A running emulator with gRPC, and a client's stubs."""

    platform: EmulatedPlatform
    server: EmulatorGrpcServer
    faults: Faults
    log: CallLog
    channel: grpc.Channel
    jobs: JobsStub = field()
    payloads: PayloadsStub = field()
    pipelines: PipelinesStub = field()

    @jobs.default
    def _jobs(self) -> JobsStub:
        return JobsStub(self.channel)

    @payloads.default
    def _payloads(self) -> PayloadsStub:
        return PayloadsStub(self.channel)

    @pipelines.default
    def _pipelines(self) -> PipelinesStub:
        return PipelinesStub(self.channel)

    def create(self, pipeline: str = LUNG) -> jobs_pb2.JobsCreateResponse:
        """Create a job."""
        return self.jobs.Create(self.create_request(pipeline))

    def upload(self, payload_id: str, name: str, *pieces: bytes) -> payloads_pb2.PayloadsUploadResponse:
        """Upload a file in these pieces."""
        return self.payloads.Upload(iter([self.upload_request(payload_id, name, piece) for piece in pieces]))

    def files(self, payload_id: str) -> list[str]:
        """Return the names of a payload's files."""
        return [file.name for file in self.platform.payloads.details(payload_id).files]

    @staticmethod
    def identifier(text: str) -> common_pb2.Identifier:
        return common_pb2.Identifier(value=text)

    @staticmethod
    def create_request(pipeline: str = LUNG, name: str = "ae-lung-1") -> jobs_pb2.JobsCreateRequest:
        return jobs_pb2.JobsCreateRequest(
            pipeline_id=Site.identifier(pipeline),
            name=name,
            priority=jobs_pb2.JOB_PRIORITY_HIGHER,
            metadata={"Source": "AE"},
        )

    @staticmethod
    def upload_request(payload_id: str, name: str, data: bytes) -> payloads_pb2.PayloadsUploadRequest:
        details = payloads_pb2.PayloadFileDetails(name=name, size=len(data))
        return payloads_pb2.PayloadsUploadRequest(payload_id=Site.identifier(payload_id), details=details, data=data)


@pytest.fixture
def site() -> Iterator[Site]:
    platform, faults, log = EmulatedPlatform(pipelines=[LUNG, HEART], clock=lambda: NOON), Faults(), CallLog()
    with serve(platform, faults=faults, log=log) as server, grpc.insecure_channel(server.address) as channel:
        yield Site(platform=platform, server=server, faults=faults, log=log, channel=channel)
