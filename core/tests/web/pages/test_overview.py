"""The content of the overview: problems with links, rates with charts, and AE titles."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_adapter.operations.status import Level, Problem
from dicom_adapter.web.pages.overview import view_problem, view_rate
from dicom_adapter.web.pages.rates import first_since
from dicom_adapter.web.pages.words import TextPart, number_text, size_text, text_parts

NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("reason", "shown", "link"),
    [
        ("3 jobs failed: `dicom-adapter jobs list --state failed` shows why", "3 jobs failed", "/jobs?state=failed"),
        (
            "2 instances quarantined: `dicom-adapter instances list --state quarantined` shows why",
            "2 instances quarantined",
            "/quarantine",
        ),
        ("rejected since noon; `dicom-adapter senders` shows more", "rejected since noon", "/senders"),
        ("the disk is full", "the disk is full", ""),
    ],
)
def test_a_problem_links_to_the_page_that_shows_more(reason: str, shown: str, link: str) -> None:
    """The link replaces the clause about the command."""
    found = view_problem(Problem(level=Level.YELLOW, part="AE title LUNG", reason=reason))
    assert (shown, link) == (found.reason, found.link)


def test_commands_and_times_of_a_message_are_marked() -> None:
    found = list(text_parts("stopped at 2026-01-05 08:00:00 UTC; run `dicom-adapter run`, then <b>wait</b>"))
    assert [
        TextPart("text", "stopped at "),
        TextPart("time", "2026-01-05 08:00:00 UTC", NOW),
        TextPart("text", "; run "),
        TextPart("command", "dicom-adapter run"),
        TextPart("text", ", then <b>wait</b>"),
    ] == found


@given(st.text())
def test_the_parts_of_a_message_are_the_whole_message(message: str) -> None:
    """Nothing is lost but the backticks of commands."""
    joined = "".join(f"`{part.text}`" if part.kind == "command" else part.text for part in text_parts(message))
    assert message == joined


def test_a_rate_shows_full_minutes() -> None:
    """The last of the counts is that of the current minute, which is not complete."""
    found = view_rate("Instances", [0, 10, 4, 1])
    assert (4, 15, 10) == (found.last, found.total, found.highest)
    assert 3 == found.line.count(" ") - found.line.count(" L")


def test_an_hour_without_rows_has_a_flat_chart() -> None:
    found = view_rate("Jobs", [0] * 60)
    assert (0, 0, 0) == (found.last, found.total, found.highest)
    assert found.line.startswith("M0.0 39.0")


@given(st.lists(st.integers(min_value=0, max_value=50), max_size=40), st.integers(min_value=0, max_value=60))
def test_the_search_finds_the_first_row_of_a_time(minutes: list[int], since: int) -> None:
    """Rows have ascending times and numbers with gaps."""
    rows = {3 * number + 1: NOW + timedelta(minutes=minute) for number, minute in enumerate(sorted(minutes))}
    end = max(rows, default=0) + 1
    moment = NOW + timedelta(minutes=since)

    def probe(number: int) -> tuple[int, datetime] | None:
        return next(((each, at) for each, at in rows.items() if each >= number), None)

    found = first_since(probe, 1, end, moment)
    expected = next((number for number, at in rows.items() if at >= moment), end)
    assert sum(number >= expected for number in rows) == sum(number >= found for number in rows)


def test_sizes_and_numbers_are_short() -> None:
    assert ["999 bytes", "1.5 kB", "2.0 TB"] == [size_text(size) for size in (999, 1500, 2 * 10**12)]
    assert "1\N{NARROW NO-BREAK SPACE}000\N{NARROW NO-BREAK SPACE}000" == number_text(1_000_000)
