"""The OpenAPI document matches the admin API: schemathesis generates requests from it and checks the responses.

The libraries are imported by the tests that use them, because every process of a test run collects all modules, and the
import of schemathesis takes seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from dicom_adapter.testing import make_instance, make_study

# Number of generated requests for each operation and mode. There are many operations, so the default is small.
EXAMPLES = int(os.environ.get("DICOM_ADAPTER_API_EXAMPLES", "6"))
SESSION = "/api/session"  # wrong tokens are tested in `core/tests/web/access`
CONFIGURATION = """
[ae-titles.A]
processor = "by-study"
settings = { required = "AdmissionID", pipeline-a = "p1" }
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-lung = "p2" }
"""


def document_of(api: Any) -> Any:
    return api.viewer.get("/openapi.json").json()


def test_the_document_is_valid_openapi(shared_api: Any) -> None:
    """Each operation has an id of its own, a summary and a tag."""
    from openapi_spec_validator import validate

    document = document_of(shared_api)
    validate(document)
    assert "3.1.0" == document["openapi"]
    found = [one for path, methods in document["paths"].items() if path.startswith("/api/") for one in methods.values()]
    assert 30 <= len({one["operationId"] for one in found}) == len(found)
    assert [] == [one["operationId"] for one in found if not (one.get("summary") and one.get("tags"))]


def test_no_pattern_matches_a_trailing_newline(shared_api: Any) -> None:
    """In Python, `$` alone also matches before a trailing newline. The patterns mean the same in JSON Schema."""
    patterns = set(find_patterns(document_of(shared_api)))
    assert 8 <= len(patterns)
    for value in ("1.2", "LUNG", "a", "0" * 32, ""):
        assert [] == [pattern for pattern in patterns if re.search(pattern, f"{value}\n")]


def find_patterns(document: Any) -> Iterator[str]:
    """Yield the patterns of all schemas."""
    parts = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    for part in parts:
        yield from find_patterns(part)
    if isinstance(document, dict) and isinstance(document.get("pattern"), str):
        yield document["pattern"]


def test_no_parameter_of_an_address_is_patient_data(shared_api: Any) -> None:
    """Proxies log addresses. Patient ID and Accession Number are only in bodies."""
    names = {
        parameter["name"].lower()
        for methods in document_of(shared_api)["paths"].values()
        for one in methods.values()
        for parameter in one.get("parameters", [])
    }
    assert "studyinstanceuid" in names
    assert [] == [name for name in names if any(word in name for word in ("patient", "accession", "birth", "desc"))]


@pytest.mark.timeout(100 * EXAMPLES)
@pytest.mark.filterwarnings("default")  # schemathesis causes warnings
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_response_is_described(make_api: Any, mode: str) -> None:
    """Valid and invalid requests get only the statuses and schemas of the document, and no status 500."""
    import schemathesis

    api = make_api(CONFIGURATION)
    api.adapter.receive(make_instance(study_uid="1.1", patient_id="0"), ae_title="A")
    api.adapter.receive(*make_study(study_uid="1.2", patient_id="0"), ae_title="LUNG")
    api.adapter.advance(6)
    headers = {"Host": "127.0.0.1", "Authorization": api.operator.headers["Authorization"]}
    schema = schemathesis.openapi.from_asgi("/openapi.json", api.application, headers=headers)
    found = [result.ok() for result in schema.get_all_operations()]
    operations = [operation for operation in found if operation.path.startswith("/api/") and operation.path != SESSION]
    assert 30 <= len(operations)
    for operation in operations:
        can_be_invalid = operation.body or any(operation.iter_parameters())
        if mode == "positive" or can_be_invalid:
            probe(operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)), headers)


def probe(requests: Any, headers: dict[str, str]) -> None:
    """Send examples of these requests; every run sends the same examples."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    expectations = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests)
    def call(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=expectations)

    call()
