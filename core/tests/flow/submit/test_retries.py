"""Pauses between attempts, as a function of counts, times and jitter."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from dicom_adapter.config.model import SubmitterConfig
from dicom_adapter.flow.submit.scheduling import Retries

NOW = datetime(2026, 1, 5, 8, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("attempts", "failing_for", "jitter", "pause"),
    [
        (1, 0, 0.0, 2.0),
        (1, 0, 1.0, 1.0),
        (1, 0, 0.5, 1.5),
        (2, 9, 0.0, 4.0),
        (3, 9, 0.0, 8.0),
        (3, 9, 1.0, 4.0),
        (8, 9, 0.0, 256.0),
        (9, 9, 0.0, 300.0),
        (9, 9, 1.0, 150.0),
        (1_000_000, 9, 0.0, 300.0),
        (1, 86_399.999, 0.0, 2.0),
        (1, 86_400, 0.0, None),
        (50, 90_000, 0.5, None),
    ],
)
def test_pauses_double_up_to_the_longest_until_the_retry_time_is_over(
    attempts: int, failing_for: float, jitter: float, pause: float | None
) -> None:
    """By default, the pauses are two seconds to five minutes, for a day. Jitter shortens a pause by up to half."""
    retries = Retries.of(SubmitterConfig(type="memory"))
    expected = None if pause is None else NOW + pause * SECOND
    assert expected == retries.next_attempt(attempts, NOW - failing_for * SECOND, NOW, jitter)


def test_the_longest_pauses_that_can_be_configured_can_be_computed() -> None:
    """The longest pause is a day, and retries end after a year."""
    retries = Retries.of(SubmitterConfig(type="memory", retry_first=86_400, retry_most=86_400, retry_for=366 * 86_400))
    assert NOW + timedelta(days=1) == retries.next_attempt(365, NOW, NOW, 0.0)
