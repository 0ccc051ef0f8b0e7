"""The gRPC server of one AE title: the API, health checks and reflection, with optional token and TLS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dicom_adapter import LaneHandle, Refused, Server
from dicom_adapter_cache.grpc_certificate import ServerCertificate
from dicom_adapter_cache.grpc_interceptors import MessageCheck, TokenCheck
from dicom_adapter_cache.grpc_service import CacheService
from dicom_adapter_cache.operations import Cache
from dicom_adapter_cache.settings import GrpcSettings
from dicom_adapter_cache.wire import cache_pb2, cache_pb2_grpc

log = structlog.get_logger("dicom_adapter_cache")

SERVICE = cache_pb2.DESCRIPTOR.services_by_name["Cache"].full_name
THREADS = 16  # calls that run at the same time; more calls are queued
MAX_CALLS = 64  # maximum number of concurrent calls, including queued calls; more calls are refused
MAX_MESSAGE_BYTES = 2**20  # requests contain UIDs and texts, no images
GRACE_S = 3.0  # time limit for running calls when the server stops
HANDSHAKE_MS = 10_000  # time limit for TLS and the start of HTTP/2 on a new connection
IDLE_MS = 60_000  # a connection is closed this long after its last call; clients connect again automatically
KEEP_ALIVE_MS = 60_000  # time between two pings, which detect clients that no longer exist
PING_RESPONSE_MS = 20_000  # time limit for the response to a ping
OPTIONS = (
    ("grpc.keepalive_time_ms", KEEP_ALIVE_MS),
    ("grpc.keepalive_timeout_ms", PING_RESPONSE_MS),
    ("grpc.max_concurrent_streams", MAX_CALLS),  # limit for each connection
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # otherwise two services could listen on the same port unnoticed
)


class CacheGrpcServer(Server):
    """gRPC server for the cache of one AE title."""

    def __init__(self, lane: LaneHandle) -> None:
        self.name = f"gRPC {lane.ae_title}"
        self._lane = lane
        self._settings: GrpcSettings = lane.settings.grpc
        self._port = self._settings.port
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Listen, then serve. Raises Refused if the address or the certificate cannot be used."""
        interceptors: list[grpc.ServerInterceptor] = [MessageCheck()]
        if self._settings.token is not None:
            interceptors.insert(0, TokenCheck(self._settings.token))
        server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="cache-grpc"),
            interceptors=interceptors,
            options=(*OPTIONS, *self._limits()),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        cache_pb2_grpc.add_CacheServicer_to_server(CacheService(Cache({self._lane.ae_title: self._lane})), server)
        health_service = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
        health_service.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self._port = self._listen(server)  # a restarted server uses the same port
        server.start()
        self._server = server
        log.info("cache_grpc_listening", ae_title=self._lane.ae_title, address=self._settings.bind, port=self._port)

    def _limits(self) -> list[tuple[str, int]]:
        """Return the options that limit connections. gRPC has no option for the connections of one address."""
        return [
            ("grpc.max_allowed_incoming_connections", self._settings.max_connections),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
            ("grpc.max_connection_idle_ms", IDLE_MS),
        ]

    def _listen(self, server: grpc.Server) -> int:
        bind = self._settings.bind
        address = f"[{bind}]:{self._port}" if ":" in bind else f"{bind}:{self._port}"
        try:
            credentials = self._credentials()
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials)
        except Refused as refusal:
            raise Refused(f"gRPC of AE title '{self._lane.ae_title}': {refusal}") from None
        except RuntimeError:  # raised by gRPC without a reason
            raise Refused(
                f"gRPC of AE title '{self._lane.ae_title}': cannot listen at {address}: check that the port is free"
            ) from None

    def _credentials(self) -> grpc.ServerCredentials | None:
        if self._settings.certificate_file is None or self._settings.key_file is None:
            return None
        return ServerCertificate(self._settings.certificate_file, self._settings.key_file).credentials()

    def is_alive(self) -> bool:
        return self._server is not None

    def stop(self) -> None:
        """Stop the server; running calls have GRACE_S to finish."""
        if self._server is not None:
            self._server.stop(GRACE_S).wait()
            self._server = None
