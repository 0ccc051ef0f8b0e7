"""The OpenAPI document is true: what schemathesis makes of it meets no answer that it does not describe."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dicom_adapter.testing import make_study

CALLS_OF_EACH = 25  # operation
LOCAL = {"Host": "127.0.0.1"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_the_document_is_valid_openapi(keep: Any) -> None:
    """And names every operation of the cache."""
    document = keep().rest.get("/openapi.json").json()
    validate(document)
    assert 12 == sum(len(path) for name, path in document["paths"].items() if name.startswith("/cache/"))


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # of what schemathesis itself uses
@pytest.mark.parametrize("mode", GenerationMode)
def test_no_request_gets_an_answer_that_is_not_described(keep: Any, mode: GenerationMode) -> None:
    """Valid requests and invalid ones: no 500, no other status, no other shape than the document has."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1", patient_id="0"))
    schema = schemathesis.openapi.from_asgi("/openapi.json", kept.application, headers=LOCAL)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert 13 == len(operations)
    for operation in operations:
        if mode is GenerationMode.POSITIVE or operation.path != "/health":  # nothing of it can be wrong
            probe(operation.as_strategy(generation_mode=mode))


def probe(requests: Any) -> None:
    """Make some of these requests, the same ones every time."""

    @settings(
        max_examples=CALLS_OF_EACH,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests)
    def call(case: Any) -> None:
        case.call_and_validate(headers=LOCAL, checks=CHECKS)

    call()
