"""What the emulator's REST face refuses: every error is a problem details document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PIPELINE = 32 * "a"
NOBODY = 32 * "0"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pipelineId": NOBODY}, (422, "pipeline-not-found")),
        ({"pipelineId": "short"}, (400, "id-malformed")),
        ({"pipelineId": None}, (400, "bad-request")),
        ({"name": "Not_A_Name"}, (422, "job-name-invalid")),
        ({"priority": "utmost"}, (422, "value-invalid")),
        ({"metadata": {"key": 1}}, (400, "bad-request")),
        ({"metadata": {"key": 257 * "x"}}, (422, "metadata-invalid")),
        ({"metadata": {"": "x"}}, (422, "metadata-invalid")),
        ({"inputPayloads": [NOBODY]}, (422, "payload-not-found")),
        ({"inputPayloads": "x"}, (400, "bad-request")),
    ],
)
def test_a_job_that_breaks_a_rule_is_refused(face: Any, change: dict[str, Any], expected: tuple[int, str]) -> None:
    """Each refusal names its problem, and no job is made."""
    answer = face.post("/v1/jobs", {"pipelineId": PIPELINE, "name": "ae-lung-1", **change})
    assert expected == face.problem(answer)
    assert () == face.platform.jobs.list()


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", f"/v1/jobs/{NOBODY}", (404, "job-not-found")),
        ("GET", "/v1/jobs/a%20b%C3%A4", (400, "id-malformed")),
        ("GET", "/v1/jobs/short", (400, "id-malformed")),
        ("POST", f"/v1/jobs/{NOBODY}:cancel", (404, "job-not-found")),
        ("PUT", f"/v1/jobs/{NOBODY}/metadata/key", (400, "bad-request")),
        ("DELETE", f"/v1/jobs/{NOBODY}/metadata/key", (404, "job-not-found")),
        ("GET", f"/v1/jobs/{NOBODY}/operators/x/logs", (404, "job-not-found")),
        ("GET", f"/v1/payloads/{NOBODY}", (404, "payload-not-found")),
        ("DELETE", f"/v1/payloads/{NOBODY}", (404, "payload-not-found")),
        ("PUT", f"/v1/payloads/{NOBODY}/files/input/x", (404, "payload-not-found")),
        ("GET", f"/v1/payloads/{NOBODY}/files/input/x", (404, "payload-not-found")),
        ("GET", f"/v1/pipelines/{NOBODY}", (404, "pipeline-not-found")),
        ("DELETE", f"/v1/pipelines/{NOBODY}", (404, "pipeline-not-found")),
        ("GET", "/v2/jobs", (404, "not-found")),
        ("PATCH", "/v1/jobs", (405, "method-not-allowed")),
    ],
)
def test_what_is_not_there_is_refused(face: Any, method: str, path: str, expected: tuple[int, str]) -> None:
    """Every error is a problem details document, those of the router too."""
    assert expected == face.problem(face.client.request(method, path))


def test_a_problem_carries_the_code_of_the_platform(face: Any) -> None:
    """`claraCode` is what the gRPC API has in its header, with its messages."""
    found = face.client.get(f"/v1/jobs/{NOBODY}").json()
    assert (-0x2001, [f"no job {NOBODY}"]) == (found["claraCode"], found["messages"])


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"name": "\\ud800"}', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(face: Any, body: bytes) -> None:
    """Broken, deeply nested and half characters included."""
    headers = {"Idempotency-Key": '"k"', "Content-Type": "application/json"}
    assert (400, "bad-request") == face.problem(face.client.post("/v1/jobs", content=body, headers=headers))


def test_a_body_that_is_not_json_is_refused(face: Any) -> None:
    """Forms are not taken for JSON."""
    assert (415, "media-type") == face.problem(face.client.post("/v1/jobs", data={"name": "x"}))


def test_a_body_without_end_is_refused(face: Any) -> None:
    """JSON is limited to 8 MiB."""
    content = b'{"name": "' + b"x" * (8 << 20) + b'"}'
    headers = {"Content-Type": "application/json"}
    assert (413, "too-large") == face.problem(face.client.post("/v1/jobs", content=content, headers=headers))


def test_a_token_is_demanded(make_face: Callable[..., Any]) -> None:
    """Without the right one nothing is done; the answer says how to show it."""
    face = make_face(token="s3cret")
    refused = [face.client.get("/v1/version", headers=h) for h in ({}, {"Authorization": "Bearer other"})]
    granted = face.client.get("/v1/version", headers={"Authorization": "Bearer s3cret"})
    assert [(401, "unauthorized")] * 2 == [face.problem(answer) for answer in refused]
    assert "Bearer" == refused[0].headers["www-authenticate"]
    assert (200, 0) == (granted.status_code, granted.json()["major"])
