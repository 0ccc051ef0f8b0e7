"""Pipelines, logs and the server itself on the emulator's REST face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dicom_adapter_clara_client.emulator.rest_face import serve
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import ClaraJobState

PIPELINE = 32 * "a"
NOBODY = 32 * "0"


def test_a_pipeline_is_made_listed_and_removed(face: Any) -> None:
    """Its definition comes with it, and is left out of the list."""
    files = [{"path": "pipeline.yaml", "content": "name: lung\n"}]
    made = face.client.post("/v1/pipelines", json={"files": files, "metadata": {"a": "b"}})
    path = made.headers["location"]
    listed = face.client.get("/v1/pipelines").json()["pipelines"]
    assert (201, "lung", files) == (made.status_code, made.json()["name"], made.json()["files"])
    assert made.json() == face.client.get(path).json()
    assert {PIPELINE, made.json()["pipelineId"]} == {pipeline["pipelineId"] for pipeline in listed}
    assert all("files" not in pipeline for pipeline in listed)
    assert 204 == face.client.delete(path).status_code
    assert (404, "pipeline-not-found") == face.problem(face.client.get(path))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], (422, "pipeline-invalid")),
        ([{"path": "a"}], (400, "bad-request")),
        (["a"], (400, "bad-request")),
        (None, (400, "bad-request")),
    ],
)
def test_a_pipeline_without_a_definition_is_refused(face: Any, files: Any, expected: tuple[int, str]) -> None:
    """At least one file with path and content is demanded."""
    assert expected == face.problem(face.client.post("/v1/pipelines", json={"files": files}))


def test_logs_are_text(face: Any) -> None:
    """The emulator runs no operators, so they have written nothing."""
    answer = face.client.get(f"/v1/jobs/{face.new_job()['jobId']}/operators/any/logs")
    assert (200, "", "text/plain; charset=utf-8") == (answer.status_code, answer.text, answer.headers["content-type"])


def test_a_stopped_server_is_gone_and_its_port_free(make_face: Callable[..., Any]) -> None:
    """Another server can have the same port at once, and the state is the platform's, not the server's."""
    face = make_face()
    job_id = face.new_job()["jobId"]
    face.server.stop()
    with serve(face.platform, face.server.address) as again:
        assert ClaraJobState.PENDING is face.platform.jobs.status(job_id).state
        assert 200 == httpx.get(f"{again.url}/v1/jobs/{job_id}", trust_env=False).status_code


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", ":1", "127.0.0.1:99999", "192.0.2.1:0"])
def test_an_address_that_cannot_be_had_is_said(address: str) -> None:
    """The error names it."""
    with pytest.raises(OSError, match=address):
        serve(EmulatedPlatform(), address)
