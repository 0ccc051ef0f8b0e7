"""What the platform says, sorted into what may pass and what cannot, and fit for a log."""

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

LOUD = Quoting()
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
def test_every_status_has_a_family(status: grpc.StatusCode) -> None:
    """What says that the request is wrong is permanent; all else may pass."""
    refusal = refused_by_status("job 1: create", status, "why", LOUD)
    assert (status.name in PERMANENT_STATUSES) is isinstance(refusal, Permanent)
    assert isinstance(refusal, Permanent) is not isinstance(refusal, Retriable)
    assert str(refusal).startswith(f"job 1: create: the call ended with {status.name}: why")


@pytest.mark.parametrize("code", [-0x1000, -0x1001, -0x1100, -0x1101, -0x2000, -0x2001, -0x2100, -0x3001])
def test_what_the_platform_cannot_take_is_permanent(code: int) -> None:
    """Malformed and unknown ids, unusable definitions and names stay what they are."""
    assert isinstance(refused_by_code("job 1: create", code, [], LOUD), Permanent)


@pytest.mark.parametrize("code", [-0x1002, -0x1003, -0x1004, -0x2002, -0x2003, -1, -0x2901, -0x3102, -(2**31)])
def test_what_may_be_mended_is_retriable(code: int) -> None:
    """Failures to store and list may pass; so may codes that nobody has published."""
    assert isinstance(refused_by_code("job 1: create", code, [], LOUD), Retriable)


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
def test_a_code_is_told_as_it_is_documented(code: int, messages: list[str], expected: str) -> None:
    """In hexadecimal, with its published meaning and the platform's words."""
    assert f"job 1: create: the platform answered {expected}" == str(
        refused_by_code("job 1: create", code, messages, LOUD)
    )


def test_a_message_cannot_command_a_terminal_or_fill_a_log() -> None:
    """Control characters become blanks, line breaks too, and the text ends."""
    said = ["\x1b[2Jgone\r\nINFO all is well\u202e" + 10_000 * "x", *(1_000_000 * ["y"])]
    text = str(refused_by_code("job 1: create", -0x2100, said, LOUD))
    assert text.isprintable()
    assert "name invalid): [2Jgone INFO all is well xxx" in text
    assert len(text) < LONGEST_TEXT + 100


def test_secrets_and_quoted_values_stay_out() -> None:
    """Neither a token that the platform repeats, nor anything of an answer that may quote metadata."""
    token = Quoting(secrets=("t0ken",))
    assert "UNAUTHENTICATED: no … here" in str(
        refused_by_status("job 1: create", grpc.StatusCode.UNAUTHENTICATED, "no t0ken here", token)
    )
    silent = Quoting(anything=False)
    assert "job 1: metadata: the platform answered -0x2901" == str(
        refused_by_code("job 1: metadata", -0x2901, ["DOE^JANE"], silent)
    )


@given(st.text(), st.integers(1, 50))
def test_any_text_becomes_one_short_line(text: str, most: int) -> None:
    """Printable, without blanks at its ends, and within its length."""
    line = one_line(text, most)
    assert line.isprintable()
    assert line == line.strip()
    assert len(line) <= most
