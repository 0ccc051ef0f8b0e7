"""Errors of the emulator's REST API: each is a problem details document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PIPELINE = 32 * "a"
UNKNOWN_ID = 32 * "0"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pipelineId": UNKNOWN_ID}, (422, "pipeline-not-found")),
        ({"pipelineId": "short"}, (400, "id-malformed")),
        ({"pipelineId": None}, (400, "bad-request")),
        ({"name": "Not_A_Name"}, (422, "job-name-invalid")),
        ({"priority": "utmost"}, (422, "value-invalid")),
        ({"metadata": {"key": 1}}, (400, "bad-request")),
        ({"metadata": {"key": 257 * "x"}}, (422, "metadata-invalid")),
        ({"metadata": {"": "x"}}, (422, "metadata-invalid")),
        ({"inputPayloads": [UNKNOWN_ID]}, (422, "payload-not-found")),
        ({"inputPayloads": "x"}, (400, "bad-request")),
    ],
)
def test_an_invalid_job_is_refused(emulator: Any, change: dict[str, Any], expected: tuple[int, str]) -> None:
    """The response has the problem, and no job is created."""
    answer = emulator.post("/v1/jobs", {"pipelineId": PIPELINE, "name": "ae-lung-1", **change})
    assert expected == emulator.problem(answer)
    assert () == emulator.platform.jobs.list()


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", f"/v1/jobs/{UNKNOWN_ID}", (404, "job-not-found")),
        ("GET", "/v1/jobs/a%20b%C3%A4", (400, "id-malformed")),
        ("GET", "/v1/jobs/short", (400, "id-malformed")),
        ("POST", f"/v1/jobs/{UNKNOWN_ID}:cancel", (404, "job-not-found")),
        ("PUT", f"/v1/jobs/{UNKNOWN_ID}/metadata/key", (400, "bad-request")),
        ("DELETE", f"/v1/jobs/{UNKNOWN_ID}/metadata/key", (404, "job-not-found")),
        ("GET", f"/v1/jobs/{UNKNOWN_ID}/operators/x/logs", (404, "job-not-found")),
        ("GET", f"/v1/payloads/{UNKNOWN_ID}", (404, "payload-not-found")),
        ("DELETE", f"/v1/payloads/{UNKNOWN_ID}", (404, "payload-not-found")),
        ("PUT", f"/v1/payloads/{UNKNOWN_ID}/files/input/x", (404, "payload-not-found")),
        ("GET", f"/v1/payloads/{UNKNOWN_ID}/files/input/x", (404, "payload-not-found")),
        ("GET", f"/v1/pipelines/{UNKNOWN_ID}", (404, "pipeline-not-found")),
        ("DELETE", f"/v1/pipelines/{UNKNOWN_ID}", (404, "pipeline-not-found")),
        ("GET", "/v2/jobs", (404, "not-found")),
        ("PATCH", "/v1/jobs", (405, "method-not-allowed")),
    ],
)
def test_missing_objects_and_wrong_methods_are_refused(
    emulator: Any, method: str, path: str, expected: tuple[int, str]
) -> None:
    """Errors of the router are problem details documents, too."""
    assert expected == emulator.problem(emulator.client.request(method, path))


def test_a_problem_has_the_code_of_the_platform(emulator: Any) -> None:
    """`claraCode` and `messages` are those of the gRPC response header."""
    document = emulator.client.get(f"/v1/jobs/{UNKNOWN_ID}").json()
    assert (-0x2001, [f"no job {UNKNOWN_ID}"]) == (document["claraCode"], document["messages"])


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"name": "\\ud800"}', b"[" * 100_000])
def test_a_body_that_is_not_an_object_is_refused(emulator: Any, body: bytes) -> None:
    """This includes invalid JSON, deep nesting and surrogates."""
    headers = {"Idempotency-Key": '"k"', "Content-Type": "application/json"}
    assert (400, "bad-request") == emulator.problem(emulator.client.post("/v1/jobs", content=body, headers=headers))


def test_a_body_that_is_not_json_is_refused(emulator: Any) -> None:
    """A form is not accepted as JSON."""
    assert (415, "media-type") == emulator.problem(emulator.client.post("/v1/jobs", data={"name": "x"}))


def test_a_body_that_is_too_large_is_refused(emulator: Any) -> None:
    """The limit for JSON is 8 MiB."""
    content = b'{"name": "' + b"x" * (8 << 20) + b'"}'
    headers = {"Content-Type": "application/json"}
    assert (413, "too-large") == emulator.problem(emulator.client.post("/v1/jobs", content=content, headers=headers))


def test_the_token_is_required(make_emulator: Callable[..., Any]) -> None:
    """A request without the right token has no effect; the response names the authentication scheme."""
    emulator = make_emulator(token="s3cret")
    refused = [emulator.client.get("/v1/version", headers=h) for h in ({}, {"Authorization": "Bearer other"})]
    granted = emulator.client.get("/v1/version", headers={"Authorization": "Bearer s3cret"})
    assert [(401, "unauthorized")] * 2 == [emulator.problem(answer) for answer in refused]
    assert "Bearer" == refused[0].headers["www-authenticate"]
    assert (200, 0) == (granted.status_code, granted.json()["major"])
