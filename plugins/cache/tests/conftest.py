"""A cache AE title under the virtual clock, and its REST API without a socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest
from attrs import frozen
from litestar.testing import TestClient
from pydicom.dataset import Dataset

from dicom_adapter.host.http import make_app
from dicom_adapter.host.http.health import Health
from dicom_adapter.testing import Adapter
from dicom_adapter_cache.operations import Cache
from dicom_adapter_cache.rest import handlers

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


class SettlingHandle:
    """A handle of the host that is at work; its requests are answered at once: nobody else runs the lane in a test."""

    def __init__(self, adapter: Adapter, ae_title: str) -> None:
        self._adapter = adapter
        self._ae_title = ae_title
        self._lock = threading.RLock()  # requests come from threads of the server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter.host.handles[self._ae_title], name)

    def ask(self, request: Callable[[Any], Any]) -> Future[Any]:
        with self._lock:
            future = self._adapter.host.handles[self._ae_title].ask(request)
            self._adapter.host.run_until_idle()
        return future


@frozen
class Kept:
    """An adapter with cache AE titles, and everything that it can be asked."""

    adapter: Adapter
    lanes: Mapping[str, Any]
    cache: Cache
    application: Any
    rest: Any

    def receive(self, *data_sets: Dataset, ae_title: str = "CACHE", settled: bool = True) -> list[Any]:
        """Let instances arrive, and be there for long enough; returns how they were answered."""
        answers = self.adapter.receive(*data_sets, ae_title=ae_title)
        if settled:
            self.adapter.advance(6)
        return answers

    def compose(self, key: str | None = None, **order: Any) -> Any:
        """POST /cache/jobs."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.rest.post("/cache/jobs", json={"pipeline": PIPELINE, "name": "job", **order}, headers=headers)

    def study_uids(self, query: str = "") -> list[str]:
        """GET /cache/studies."""
        answer = self.rest.get(f"/cache/studies?{query}")
        assert 200 == answer.status_code, answer.text
        return [study["studyInstanceUid"] for study in answer.json()["items"]]


Keep = Callable[..., Kept]


@pytest.fixture
def keep(make_adapter: Callable[[str], Adapter]) -> Iterator[Keep]:
    """Make an adapter with `settings` of the AE title CACHE, and perhaps `more` of the configuration."""
    with ExitStack() as clients:

        def make(settings: str = "", more: str = "") -> Kept:
            adapter = make_adapter(f"{CONFIGURATION}[ae-titles.CACHE.settings]\n{settings}\n{more}")
            lanes = {name: SettlingHandle(adapter, name) for name in adapter.host.handles}
            cache = Cache(lanes)  # type: ignore[arg-type] # what it has not of its own, it takes from the handle
            green = Health(health="green", service="running", problems=[])
            app = make_app({"cache": handlers(cache)}, lambda: green, None, "1.0")
            client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)  # type: ignore[arg-type] # any ASGI application
            return Kept(adapter, lanes, cache, app, clients.enter_context(client))

        yield make


@pytest.fixture(params=["'; DROP TABLE cache_studies; --", '" OR 1=1 --', "../../etc/passwd", "%", "\\", "$(id)*?|"])
def odd(request: pytest.FixtureRequest) -> str:
    """What means something to a database, a file system or a shell."""
    text: str = request.param
    return text
