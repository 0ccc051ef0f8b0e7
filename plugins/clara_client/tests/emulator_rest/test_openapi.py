"""`docs/clara-rest-openapi.yaml` is a valid document, and the emulator conforms to it.

The validators are imported by the tests that use them: every process of a test run collects all modules, and the import
of jsonschema takes two seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicom_adapter_clara_client.emulator import rest_problems
from dicom_adapter_clara_client.emulator.faults import Faults
from dicom_adapter_clara_client.emulator.rest_operations import operations
from dicom_adapter_clara_client.emulator.rest_server import FILE_PATH, serve
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform

DOCUMENT = Path(__file__).parents[4] / "docs" / "clara-rest-openapi.yaml"
KEY = {"Idempotency-Key": '"a"'}
METHODS = {"get", "put", "post", "delete"}
# Parts of paths in the emulator, and their names in the document.
PARTS = {"job": "jobId", "payload": "payloadId", "pipeline": "pipelineId", "file:path": "path", "key:path": "key"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    from openapi_spec_validator.readers import read_from_filename

    return dict(read_from_filename(str(DOCUMENT))[0])


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """The document is OpenAPI 3.1, and every reference resolves."""
    from openapi_spec_validator import validate

    validate(document)
    assert "3.1.0" == document["openapi"]


def test_document_and_emulator_have_the_same_operations(document: dict[str, Any]) -> None:
    """The document has exactly the emulator's methods and paths."""
    served = {(operation.method.lower(), _documented(operation.path)) for operation in operations()}
    served |= {(method, _documented(FILE_PATH)) for method in ("get", "put")}
    described = {(method, path) for path, item in document["paths"].items() for method in METHODS & set(item)}
    assert described == served


def _documented(path: str) -> str:
    return re.sub(r"\{([^}]*)\}", lambda part: f"{{{PARTS.get(part[1], part[1])}}}", path)


def test_the_document_requires_keys_for_the_same_operations(document: dict[str, Any]) -> None:
    """The emulator and the document require idempotency keys for the same operations."""
    reference = {"$ref": "#/components/parameters/IdempotencyKey"}
    described = {
        (method, path)
        for path, item in document["paths"].items()
        for method in METHODS & set(item)
        if reference in item[method].get("parameters", [])
    }
    assert described == {(o.method.lower(), _documented(o.path)) for o in operations() if o.has_key}


def test_every_problem_is_listed(document: dict[str, Any]) -> None:
    """The document lists every problem with its status."""
    problems = [kind for kind in vars(rest_problems).values() if isinstance(kind, tuple) and len(kind) == 3]
    families = [*rest_problems.FAMILIES.values(), *rest_problems.STATUSES.values()]
    listed = {
        (name, int(row[1]))
        for row in re.finditer(r"^\| (\d{3}) \| (.*) \|$", document["info"]["description"], re.MULTILINE)
        for name in re.findall(r"`([a-z-]+)`", row[2])
    }
    assert [] == [(name, status) for name, status, _ in [*problems, *families] if (name, status) not in listed]
    assert set() == {name for name, _ in rest_problems.CODES.values()} - {name for name, _ in listed}


# --- responses of the emulator ----------------------------------------------------------------------------------------


class Checked:
    """A client that checks every response against the document."""

    def __init__(self, url: str, document: dict[str, Any]) -> None:
        from openapi_schema_validator import OAS31Validator

        self._client = httpx.Client(base_url=url, trust_env=False, headers=KEY)
        self._document = document
        self._validator = OAS31Validator

    def close(self) -> None:
        self._client.close()

    def __call__(self, method: str, path: str, described: str, **more: Any) -> Any:
        answer = self._client.request(method, path, **more)
        responses = self._document["paths"][described][method.lower()]["responses"]
        response = self._resolved(responses.get(str(answer.status_code), responses["default"]))
        content = response.get("content", {})
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        assert media_type in (content or {""})
        schema = content.get(media_type, {}).get("schema")
        if schema and media_type.endswith("json"):
            whole = {**schema, "components": self._document["components"]}
            self._validator(whole, format_checker=self._validator.FORMAT_CHECKER).validate(answer.json())
            return answer.json()
        return answer

    def _resolved(self, response: Any) -> Any:
        if "$ref" in response:
            return self._document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        return response


@pytest.fixture
def checked(document: dict[str, Any]) -> Iterator[Checked]:
    with serve(EmulatedPlatform(pipelines="any"), faults=Faults()) as server:
        client = Checked(server.url, document)
        yield client
        client.close()


def test_responses_for_jobs_are_as_described(checked: Checked) -> None:
    """The responses of all steps of a job and of their errors conform to the document."""
    body = {"pipelineId": 32 * "a", "name": "lung", "metadata": {"a": "b"}}
    job = checked("POST", "/v1/jobs", "/v1/jobs", json=body)
    path, file = f"/v1/jobs/{job['jobId']}", f"/v1/payloads/{job['payloadId']}/files"
    checked("POST", "/v1/jobs", "/v1/jobs", json={})
    checked("POST", f"{path}/metadata", "/v1/jobs/{jobId}/metadata", json={"metadata": {"c": "d"}})
    checked("POST", f"{path}/metadata", "/v1/jobs/{jobId}/metadata", json={"metadata": {"c": "d"}})
    checked("PUT", f"{path}/metadata/c", "/v1/jobs/{jobId}/metadata/{key}", json={"value": "e"})
    checked("DELETE", f"{path}/metadata/c", "/v1/jobs/{jobId}/metadata/{key}")
    checked("DELETE", f"{path}/metadata/c", "/v1/jobs/{jobId}/metadata/{key}")
    for _ in range(2):
        checked("PUT", f"{file}/input/1", "/v1/payloads/{payloadId}/files/{path}", content=b"0123")
    checked("PUT", f"{file}/1", "/v1/payloads/{payloadId}/files/{path}", content=b"0123")
    checked("GET", f"{file}/input/1", "/v1/payloads/{payloadId}/files/{path}")
    checked("GET", f"{file}/input/1", "/v1/payloads/{payloadId}/files/{path}", headers={"Range": "bytes=1-2"})
    checked("GET", f"{file}/input/2", "/v1/payloads/{payloadId}/files/{path}")
    for key in ("b", "c"):
        again = {"Idempotency-Key": f'"{key}"'}
        checked("POST", f"{path}:start", "/v1/jobs/{jobId}:start", json={}, headers=again)
    checked("GET", path, "/v1/jobs/{jobId}")
    checked("GET", "/v1/jobs?pageSize=1", "/v1/jobs")
    checked("GET", "/v1/jobs?pageSize=x", "/v1/jobs")
    checked("POST", f"{path}:cancel", "/v1/jobs/{jobId}:cancel", json={})
    checked("GET", f"{path}/operators/x/logs", "/v1/jobs/{jobId}/operators/{operator}/logs")


def test_other_responses_are_as_described(checked: Checked) -> None:
    """The responses for payloads, pipelines and the version conform to the document."""
    payload = checked("POST", "/v1/payloads", "/v1/payloads", json={"metadata": {"a": "b"}})
    path = f"/v1/payloads/{payload['payloadId']}"
    checked("PUT", f"{path}/files/a", "/v1/payloads/{payloadId}/files/{path}", content=b"0123")
    checked("GET", path, "/v1/payloads/{payloadId}")
    checked("DELETE", f"{path}/files/a", "/v1/payloads/{payloadId}/files/{path}")
    checked("DELETE", path, "/v1/payloads/{payloadId}")
    checked("DELETE", path, "/v1/payloads/{payloadId}")
    files = [{"path": "a.yaml", "content": "name: lung"}]
    pipeline = checked("POST", "/v1/pipelines", "/v1/pipelines", json={"files": files})
    checked("POST", "/v1/pipelines", "/v1/pipelines", json={"files": []})
    checked("GET", "/v1/pipelines", "/v1/pipelines")
    checked("GET", f"/v1/pipelines/{pipeline['pipelineId']}", "/v1/pipelines/{pipelineId}")
    checked("DELETE", f"/v1/pipelines/{pipeline['pipelineId']}", "/v1/pipelines/{pipelineId}")
    checked("GET", "/v1/version", "/v1/version")
