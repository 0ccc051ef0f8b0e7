"""Plugin that keeps studies and composes jobs from them on request: over REST, gRPC and the command line.

An AE title with `processor = "cache"` submits no job automatically. Each hook imports its modules only when it is
called, because gRPC, pydicom and SQLAlchemy take time and memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dicom_adapter import JobProcessorBase, LaneHandle, Server, hookimpl


@hookimpl
def dicom_adapter_processors() -> Iterable[type[JobProcessorBase[Any]]]:
    """Register the processor of this plugin."""
    from dicom_adapter_cache.processor import CacheProcessor

    return [CacheProcessor]


@hookimpl
def dicom_adapter_http(lanes: Mapping[str, LaneHandle]) -> Iterable[Any]:
    """Register the REST API at `/cache`."""
    from dicom_adapter_cache.operations import Cache
    from dicom_adapter_cache.rest import handlers

    return handlers(Cache(lanes)) if lanes else []


@hookimpl
def dicom_adapter_servers(lanes: Mapping[str, LaneHandle]) -> Iterable[Server]:
    """Register a gRPC server for each AE title whose settings have a table `grpc`."""
    served = [lane for lane in lanes.values() if lane.settings.grpc is not None]
    if not served:
        return []
    from dicom_adapter_cache.grpc_server import CacheGrpcServer

    return [CacheGrpcServer(lane) for lane in served]


@hookimpl
def dicom_adapter_commands() -> Iterable[Any]:
    """Register `dicom-adapter cache …`."""
    from dicom_adapter_cache.commands import cache

    return [cache]
