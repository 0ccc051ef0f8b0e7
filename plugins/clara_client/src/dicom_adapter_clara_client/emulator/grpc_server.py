"""The gRPC server of the emulated platform."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import grpc
from attrs import field, frozen

from dicom_adapter_clara_client.emulator.faults import Faults
from dicom_adapter_clara_client.emulator.grpc_calls import GrpcCalls
from dicom_adapter_clara_client.emulator.grpc_services import (
    ClaraService,
    JobsService,
    PayloadsService,
    PipelinesService,
)
from dicom_adapter_clara_client.emulator.record import CallLog
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.wire.clara_pb2_grpc import add_ClaraServicer_to_server
from dicom_adapter_clara_client.wire.jobs_pb2_grpc import add_JobsServicer_to_server
from dicom_adapter_clara_client.wire.payloads_pb2_grpc import add_PayloadsServicer_to_server
from dicom_adapter_clara_client.wire.pipelines_pb2_grpc import add_PipelinesServicer_to_server

THREADS = 64  # concurrent calls; a delayed call occupies a thread
OPTIONS = [("grpc.so_reuseport", 0)]  # otherwise two servers could share a port unnoticed


@frozen(kw_only=True)
class EmulatorTls:
    """TLS settings of a server, in PEM."""

    certificate: bytes  # chain, leaf first
    key: bytes = field(repr=False)
    client_authority: bytes | None = None  # if set, clients must have a certificate signed by it

    def credentials(self) -> grpc.ServerCredentials:
        pair = (self.key, self.certificate)
        return grpc.ssl_server_credentials([pair], self.client_authority, self.client_authority is not None)


class EmulatorGrpcServer:
    """A running server. `port` is the port that it listens on, even if port 0 was requested."""

    def __init__(self, server: grpc.Server, calls: GrpcCalls, host: str, port: int) -> None:
        self._server = server
        self._calls = calls
        self.port = port
        self.address = f"{host}:{port}"

    def stop(self) -> None:
        """Stop immediately; running calls are aborted."""
        stopped = self._server.stop(grace=None)
        self._calls.stop()
        stopped.wait()

    def __enter__(self) -> EmulatorGrpcServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    platform: EmulatedPlatform,
    address: str = "127.0.0.1:0",
    *,
    faults: Faults | None = None,
    log: CallLog | None = None,
    tls: EmulatorTls | None = None,
) -> EmulatorGrpcServer:
    """Serve a platform on `host:port`; port 0 for any free port. Raises OSError if the address cannot be used.

    with serve(EmulatedPlatform(pipelines="any")) as server:
        channel = grpc.insecure_channel(server.address)
    """
    calls = GrpcCalls(platform, faults or Faults(), log or CallLog())
    server = grpc.server(ThreadPoolExecutor(THREADS, "emulator-grpc"), interceptors=[calls], options=OPTIONS)
    add_JobsServicer_to_server(JobsService(platform), server)
    add_PayloadsServicer_to_server(PayloadsService(platform), server)
    add_PipelinesServicer_to_server(PipelinesService(platform), server)
    add_ClaraServicer_to_server(ClaraService(platform), server)
    port = _listen(server, address, tls)
    server.start()
    return EmulatorGrpcServer(server, calls, address.rpartition(":")[0], port)


def _listen(server: grpc.Server, address: str, tls: EmulatorTls | None) -> int:
    try:
        port = server.add_secure_port(address, tls.credentials()) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{address}: cannot listen there: check that the port is free") from error
    if port == 0:  # older versions of grpcio return 0 instead of raising
        raise OSError(f"{address}: cannot listen there: check that the port is free")
    return port
