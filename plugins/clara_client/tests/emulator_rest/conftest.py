"""Fixtures of the tests of the emulator's REST API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import httpx
import pytest

from dicom_adapter_clara_client.emulator.faults import Faults
from dicom_adapter_clara_client.emulator.record import CallLog
from dicom_adapter_clara_client.emulator.rest_server import EmulatorRestServer, serve
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import RunPlan

PIPELINE = 32 * "a"


class RestEmulator:
    """A running emulator with the REST API, and an HTTP client."""

    def __init__(self, **options: Any) -> None:
        self.now = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)
        self.platform = EmulatedPlatform(pipelines=[PIPELINE], run=RunPlan(seconds=None), clock=lambda: self.now)
        self.faults = Faults()
        self.log = CallLog()
        self.server: EmulatorRestServer = serve(
            self.platform, faults=self.faults, log=self.log, clock=lambda: self.now, **options
        )
        self.client = httpx.Client(base_url=self.server.url, timeout=60, trust_env=False)

    def close(self) -> None:
        self.client.close()
        self.server.stop()

    def post(self, path: str, json: Any = None, key: str | None = None, **more: Any) -> httpx.Response:
        headers = {"Idempotency-Key": f'"{key or uuid4().hex}"'}
        return self.client.post(path, json=json if json is not None else {}, headers=headers, **more)

    def new_job(self, **more: Any) -> dict[str, Any]:
        answer = self.post("/v1/jobs", {"pipelineId": PIPELINE, "name": "ae-lung-1", **more})
        assert 201 == answer.status_code, answer.text
        return dict(answer.json())

    @staticmethod
    def problem(answer: httpx.Response) -> tuple[int, str]:
        """Check a problem document, and return its status and name."""
        assert "application/problem+json" == answer.headers["content-type"]
        document = answer.json()
        assert answer.status_code == document["status"]
        assert document["title"]
        assert answer.request.url.path == unquote(document["instance"])
        return answer.status_code, document["type"].removeprefix("/problems/")


@pytest.fixture
def make_emulator() -> Iterator[Callable[..., RestEmulator]]:
    emulators: list[RestEmulator] = []

    def make(**options: Any) -> RestEmulator:
        emulators.append(RestEmulator(**options))
        return emulators[-1]

    yield make
    for emulator in emulators:
        emulator.close()


@pytest.fixture
def emulator(make_emulator: Callable[..., RestEmulator]) -> RestEmulator:
    return make_emulator()
