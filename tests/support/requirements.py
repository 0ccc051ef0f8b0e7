"""Other programs that tests need: a test is skipped without them, unless they are required."""

from __future__ import annotations

import os

import pytest

VARIABLE = "DICOM_ADAPTER_TESTS_REQUIRE"  # environment variable: what must not be missing, separated by commas


def is_required(name: str) -> bool:
    """Return whether a missing program of this name is an error."""
    return name in os.environ.get(VARIABLE, "")


def required(program: str | None, name: str, missing: str) -> str:
    """Return the path of a program. If it is None, skip the test, or let it fail if the program is required."""
    if program is None:
        if is_required(name):
            pytest.fail(f"{missing}, and {VARIABLE} requires it")
        pytest.skip(missing)
    return program
