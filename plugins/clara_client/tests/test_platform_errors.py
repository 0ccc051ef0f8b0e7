"""Errors of the platform are Retriable or Permanent, with messages that are safe for logs."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_adapter import Permanent, Retriable
from dicom_adapter_clara_client.platform_errors import (
    LONGEST_TEXT,
    Quoting,
    refused_by_code,
    refused_by_status,
)
from dicom_adapter_clara_client.platform_words import one_line

QUOTING_ALL = Quoting()
PERMANENT_STATUSES = {
    "INVALID_ARGUMENT",
    "OUT_OF_RANGE",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "UNIMPLEMENTED",
}


@pytest.mark.parametrize("status", [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
def test_every_status_is_permanent_or_retriable(status: grpc.StatusCode) -> None:
    """Statuses for a wrong request are permanent; all others are retriable."""
    refusal = refused_by_status("job 1: create", status, "why", QUOTING_ALL)
    assert (status.name in PERMANENT_STATUSES) is isinstance(refusal, Permanent)
    assert isinstance(refusal, Permanent) is not isinstance(refusal, Retriable)
    assert str(refusal).startswith(f"job 1: create: the call ended with {status.name}: why")


@pytest.mark.parametrize("code", [-0x1000, -0x1001, -0x1100, -0x1101, -0x2000, -0x2001, -0x2100, -0x3001])
def test_codes_for_wrong_requests_are_permanent(code: int) -> None:
    """A retry cannot succeed with malformed or unknown ids, or with invalid definitions and names."""
    assert isinstance(refused_by_code("job 1: create", code, [], QUOTING_ALL), Permanent)


@pytest.mark.parametrize("code", [-0x1002, -0x1003, -0x1004, -0x2002, -0x2003, -1, -0x2901, -0x3102, -(2**31)])
def test_other_codes_are_retriable(code: int) -> None:
    """Failures to store and list may be temporary, and so may unpublished codes."""
    assert isinstance(refused_by_code("job 1: create", code, [], QUOTING_ALL), Retriable)


@pytest.mark.parametrize(
    ("code", "messages", "expected"),
    [
        (
            -0x1001,
            ["no pipeline abc", "ask an operator"],
            "-0x1001 (no such pipeline): no pipeline abc; ask an operator",
        ),
        (-0x2901, ["key there"], "-0x2901: key there"),
        (-0x2003, [], "-0x2003 (jobs not listed)"),
        (-1, [""], "-0x0001"),
    ],
)
def test_a_code_is_reported_as_documented(code: int, messages: list[str], expected: str) -> None:
    """The message has the code in hexadecimal, its published meaning and the platform's text."""
    assert f"job 1: create: the platform answered {expected}" == str(
        refused_by_code("job 1: create", code, messages, QUOTING_ALL)
    )


def test_a_message_has_no_control_characters_and_a_limited_length() -> None:
    """Control characters and line breaks become blanks, and the text is truncated."""
    messages = ["\x1b[2Jgone\r\nINFO all is well\u202e" + 10_000 * "x", *(1_000_000 * ["y"])]
    text = str(refused_by_code("job 1: create", -0x2100, messages, QUOTING_ALL))
    assert text.isprintable()
    assert "name invalid): [2Jgone INFO all is well xxx" in text
    assert len(text) < LONGEST_TEXT + 100


def test_messages_contain_no_secrets_and_no_metadata() -> None:
    """A token in the platform's text is replaced; text that may quote metadata is omitted."""
    token = Quoting(secrets=("t0ken",))
    assert "UNAUTHENTICATED: no … here" in str(
        refused_by_status("job 1: create", grpc.StatusCode.UNAUTHENTICATED, "no t0ken here", token)
    )
    quoting_nothing = Quoting(anything=False)
    assert "job 1: metadata: the platform answered -0x2901" == str(
        refused_by_code("job 1: metadata", -0x2901, ["DOE^JANE"], quoting_nothing)
    )


@given(st.text(), st.integers(1, 50))
def test_any_text_becomes_one_short_line(text: str, most: int) -> None:
    """The line is printable, within the limit, and without blanks at its ends."""
    line = one_line(text, most)
    assert line.isprintable()
    assert line == line.strip()
    assert len(line) <= most
