"""Fixtures: an adapter with a cache AE title and a virtual clock, and a client of its REST API without a socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from attrs import evolve, frozen
from litestar.testing import TestClient
from pydicom.dataset import Dataset

from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.testing import Adapter
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.http import make_app
from dicom_adapter.web.http.health import Health
from dicom_adapter_cache.grpc_server import CacheGrpcServer
from dicom_adapter_cache.operations import Cache
from dicom_adapter_cache.rest import handlers
from dicom_adapter_cache.settings import GrpcSettings
from dicom_adapter_cache.wire.cache_pb2_grpc import CacheStub

CONFIGURATION = """
default-submitter = "platform"
[submitters.platform]
type = "fake"
[submitters.research]
type = "fake"
[ae-titles.CACHE]
processor = "cache"
"""
PIPELINE = "pipeline-1"


class ImmediateHandle:
    """A lane handle that runs the lane at once for each request, because no host thread runs it in these tests."""

    def __init__(self, adapter: Adapter, ae_title: str) -> None:
        self._adapter = adapter
        self._ae_title = ae_title
        self._lock = threading.RLock()  # requests come from server threads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter.host.handles[self._ae_title], name)

    def ask(self, request: Callable[[Any], Any]) -> Future[Any]:
        with self._lock:
            future = self._adapter.host.handles[self._ae_title].ask(request)
            self._adapter.host.run_until_idle()
        return future


@frozen
class CacheSite:
    """An adapter with cache AE titles, and clients of its cache."""

    adapter: Adapter
    lanes: Mapping[str, Any]
    cache: Cache
    application: Any  # not that of `rest`: an application can be started only once
    rest: Any

    def receive(self, *data_sets: Dataset, ae_title: str = "CACHE", settled: bool = True) -> list[Any]:
        """Receive instances and return the results. If `settled`, advance the clock until the studies are complete."""
        answers = self.adapter.receive(*data_sets, ae_title=ae_title)
        if settled:
            self.adapter.advance(6)
        return answers

    def compose(self, key: str | None = None, **order: Any) -> Any:
        """Send POST /cache/jobs, and return the response."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.rest.post("/cache/jobs", json={"pipeline": PIPELINE, "name": "job", **order}, headers=headers)

    def study_uids(self, query: str = "") -> list[str]:
        """Return the Study Instance UIDs in the response to GET /cache/studies."""
        answer = self.rest.get(f"/cache/studies?{query}")
        assert 200 == answer.status_code, answer.text
        return [study["studyInstanceUid"] for study in answer.json()["items"]]


MakeCache = Callable[..., CacheSite]
ServeGrpc = Callable[..., SimpleNamespace]


OpenCache = Callable[[Adapter, ExitStack], CacheSite]


@pytest.fixture(scope="session")
def open_cache() -> OpenCache:
    """Return a function that opens clients of the cache of an adapter. The stack closes them."""

    def connect(adapter: Adapter, clients: ExitStack) -> CacheSite:
        lanes = {name: ImmediateHandle(adapter, name) for name in adapter.host.handles}
        cache = Cache(lanes)  # type: ignore[arg-type] # delegates to a LaneHandle
        green = Health(health="green", service="running", problems=[])

        def make() -> Any:
            return make_app({"cache": handlers(cache)}, lambda: green, Access(HttpConfig()), "1.0")

        client = TestClient(make(), base_url="http://127.0.0.1", raise_server_exceptions=False)  # type: ignore[arg-type] # any ASGI application
        return CacheSite(adapter, lanes, cache, make(), clients.enter_context(client))

    return connect


@pytest.fixture
def make_cache(make_adapter: Callable[[str], Adapter], open_cache: OpenCache) -> Iterator[MakeCache]:
    """Return a factory of adapters; `settings` are those of the AE title CACHE, `more` are lines after them."""
    with ExitStack() as clients:

        def make(settings: str = "", more: str = "") -> CacheSite:
            adapter = make_adapter(f"{CONFIGURATION}[ae-titles.CACHE.settings]\n{settings}\n{more}")
            return open_cache(adapter, clients)

        yield make


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory, open_cache: OpenCache) -> Iterator[CacheSite]:
    """A cache for the tests of a module that only read."""
    with closing(Adapter(tmp_path_factory.mktemp("shared"), CONFIGURATION)) as adapter, ExitStack() as clients:
        yield open_cache(adapter, clients)


@pytest.fixture(params=["'; DROP TABLE cache_studies; --", '" OR 1=1 --', "../../etc/passwd", "%", "\\", "$(id)*?|"])
def special_text(request: pytest.FixtureRequest) -> str:
    """Return a text with a special meaning for a database, a file system or a shell."""
    text: str = request.param
    return text


@pytest.fixture
def serve(make_cache: Any) -> Iterator[ServeGrpc]:
    """Return a factory of adapters that serve their cache over gRPC, with a channel and a stub."""
    with ExitStack() as cleaning:

        def make(**grpc_settings: Any) -> SimpleNamespace:
            site = make_cache()
            lane = site.lanes["CACHE"]
            settings = evolve(lane.settings, grpc=GrpcSettings(**{"port": 0, **grpc_settings}))
            server = CacheGrpcServer(LaneWithSettings(lane, settings))  # type: ignore[arg-type] # delegates to a LaneHandle
            server.start()
            cleaning.callback(server.stop)
            address = f"127.0.0.1:{server._port}"
            channel = cleaning.enter_context(grpc.insecure_channel(address))
            return SimpleNamespace(site=site, server=server, address=address, channel=channel, stub=CacheStub(channel))

        yield make


class LaneWithSettings:
    """A lane handle with other settings."""

    def __init__(self, lane: Any, settings: Any) -> None:
        self._lane = lane
        self.settings = settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lane, name)
