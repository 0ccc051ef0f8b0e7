"""Pipelines, logs and the server of the emulator's REST API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dicom_adapter_clara_client.emulator.rest_server import serve
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import ClaraJobState

PIPELINE = 32 * "a"


def test_a_pipeline_is_created_listed_and_removed(emulator: Any) -> None:
    """GET returns the pipeline with its definition; the list omits definitions."""
    files = [{"path": "pipeline.yaml", "content": "name: lung\n"}]
    created = emulator.client.post("/v1/pipelines", json={"files": files, "metadata": {"a": "b"}})
    path = created.headers["location"]
    listed = emulator.client.get("/v1/pipelines").json()["pipelines"]
    assert (201, "lung", files) == (created.status_code, created.json()["name"], created.json()["files"])
    assert created.json() == emulator.client.get(path).json()
    assert {PIPELINE, created.json()["pipelineId"]} == {pipeline["pipelineId"] for pipeline in listed}
    assert all("files" not in pipeline for pipeline in listed)
    assert 204 == emulator.client.delete(path).status_code
    assert (404, "pipeline-not-found") == emulator.problem(emulator.client.get(path))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], (422, "pipeline-invalid")),
        ([{"path": "a"}], (400, "bad-request")),
        (["a"], (400, "bad-request")),
        (None, (400, "bad-request")),
    ],
)
def test_a_pipeline_without_a_definition_is_refused(emulator: Any, files: Any, expected: tuple[int, str]) -> None:
    """At least one file with path and content is required."""
    assert expected == emulator.problem(emulator.client.post("/v1/pipelines", json={"files": files}))


def test_logs_are_text(emulator: Any) -> None:
    """The logs are empty, because emulated jobs have no operators."""
    answer = emulator.client.get(f"/v1/jobs/{emulator.new_job()['jobId']}/operators/any/logs")
    assert (200, "", "text/plain; charset=utf-8") == (answer.status_code, answer.text, answer.headers["content-type"])


def test_the_port_of_a_stopped_server_can_be_used_again(make_emulator: Callable[..., Any]) -> None:
    """A new server can use the port immediately; the state is that of the platform, not of the server."""
    emulator = make_emulator()
    job_id = emulator.new_job()["jobId"]
    emulator.server.stop()
    with serve(emulator.platform, emulator.server.address) as again:
        assert ClaraJobState.PENDING is emulator.platform.jobs.status(job_id).state
        assert 200 == httpx.get(f"{again.url}/v1/jobs/{job_id}", trust_env=False).status_code


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", ":1", "127.0.0.1:99999", "192.0.2.1:0"])
def test_an_unusable_address_is_an_error(address: str) -> None:
    """The error names the address."""
    with pytest.raises(OSError, match=address):
        serve(EmulatedPlatform(), address)
