"""Times in the output of commands."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from dicom_adapter.cli.filters import _time
from dicom_adapter.cli.times import Times

MOMENT = datetime(2026, 1, 5, 23, 30, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("hours", "shown", "zone"),
    [
        (0, "2026-01-05 23:30:00 UTC", "UTC"),
        (1, "2026-01-06 00:30:00 +01:00", "UTC+01:00"),
        (-3.5, "2026-01-05 20:00:00 -03:30", "UTC-03:30"),
    ],
)
def test_a_time_has_the_offset_of_its_zone(hours: float, shown: str, zone: str) -> None:
    times = Times(timezone(timedelta(hours=hours)))
    assert (shown, zone) == (times.full(MOMENT), times.zone_at(MOMENT))
    assert f"it hangs since {shown}." == times.in_text("it hangs since 2026-01-05 23:30:00 UTC.")


@pytest.mark.parametrize("text", ["", "at 23:30", "2026-02-30 25:61:00 UTC", "0001-01-01 00:00:00 UTC"])
def test_a_text_without_a_time_is_not_changed(text: str) -> None:
    """A message of a plugin may have any digits."""
    assert text == Times(timezone(timedelta(hours=-5))).in_text(text)


@pytest.mark.parametrize(("text", "hour"), [("8:00", 8), ("8:00:05", 8), ("08:00:05", 8), ("23:59", 23)])
def test_a_time_of_today_may_have_one_digit_and_seconds(text: str, hour: int) -> None:
    found = _time("--since", text, MOMENT, end_of_day=False)
    assert found is not None
    assert (MOMENT.astimezone().date(), hour) == (found.astimezone().date(), found.astimezone().hour)
