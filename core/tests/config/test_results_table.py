"""The table [ae-titles.<AE title>.results]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Read = Callable[[str], Any]


def with_results(minimal: str, lines: str) -> str:
    return f"default-submitter = 'clara'\n{minimal}\n[ae-titles.LUNG.results]\n{lines}\n"


def test_the_defaults_deliver_nothing(read: Read, minimal: str) -> None:
    results = read(minimal).config.ae_titles["LUNG"].results
    assert ((), False, 4 * 10**9, None) == (
        results.to,
        results.expect_results,
        results.max_output,
        results.keep_days,
    )


def test_an_ae_title_needs_its_destinations(read: Read, minimal: str) -> None:
    text = with_results(minimal, "to = ['far']") + "[submitters.far]\ntype = 'remote'\nendpoint = 'far:1'\n"
    assert ["clara", "far"] == read(text).config.submitters_of("LUNG")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("to = ['pasc']", "must name a [submitters.<name>] table"),
        ("to = ['clara', 'clara']", "must not contain a name twice"),
        ("max-output = 0", "must be at least 1 bytes"),
        ("max-outputs = 0", "must be at least 1"),
        ("keep-days = -1", "must be from 0 to 3660 days"),
        ("expect-result = true", "expect-results"),
    ],
)
def test_a_mistake_is_reported(read: Read, minimal: str, lines: str, problem: str) -> None:
    loaded = read(with_results(minimal, lines))
    assert loaded.config is None
    assert problem in str(loaded.problems[0])
