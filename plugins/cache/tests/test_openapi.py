"""The OpenAPI document matches the API: schemathesis generates requests from it and checks the responses.

The libraries are imported by the tests that use them, because every process of a test run collects all modules, and the
import of schemathesis takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from dicom_adapter.testing import make_study

EXAMPLES = 25  # number of generated requests for each operation
LOCAL = {"Host": "127.0.0.1"}


def test_the_document_is_valid_openapi(make_cache: Any) -> None:
    """The document is valid, and describes every operation of the cache."""
    from openapi_spec_validator import validate

    document = make_cache().rest.get("/openapi.json").json()
    validate(document)
    assert 12 == sum(len(path) for name, path in document["paths"].items() if name.startswith("/cache/"))


def test_no_pattern_matches_a_trailing_newline(make_cache: Any) -> None:
    """In Python, `$` alone also matches before a trailing newline. The patterns mean the same in JSON Schema.

    Verified to fail with `$` alone.
    """
    document = make_cache().rest.get("/openapi.json").json()
    patterns = set(find_patterns(document))
    assert 6 <= len(patterns)
    for value in ("1.2", "CACHE", "20250101", "a", "0" * 32, ""):
        assert [] == [pattern for pattern in patterns if re.search(pattern, f"{value}\n")]
    assert all(any(re.search(pattern, value) for value in ("1", "20250101", "0" * 32)) for pattern in patterns)


def find_patterns(document: Any) -> Iterator[str]:
    """Yield the patterns of all schemas."""
    parts = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    for part in parts:
        yield from find_patterns(part)
    if isinstance(document, dict) and isinstance(document.get("pattern"), str):
        yield document["pattern"]


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # schemathesis causes warnings
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_response_is_described(make_cache: Any, mode: str) -> None:
    """Valid and invalid requests get only the statuses and schemas of the document, and no status 500."""
    import schemathesis

    site = make_cache()
    site.receive(*make_study(study_uid="1.1", patient_id="0"))
    schema = schemathesis.openapi.from_asgi("/openapi.json", site.application, headers=LOCAL)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert 13 == len(operations)
    for operation in operations:
        if mode == "positive" or operation.path != "/health":  # a request of /health cannot be invalid
            probe(operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))


def probe(requests: Any) -> None:
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
        case.call_and_validate(headers=LOCAL, checks=expectations)

    call()
