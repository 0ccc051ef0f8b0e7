"""The codes and times of the Clara Platform API."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from dicom_adapter_clara_client.wire.codes import ClaraCode, seconds_of, time_of

KNOWN_TIME = datetime(2021, 3, 8, 18, 6, 31, tzinfo=timezone.utc)  # 63750823591 in the tests of NVIDIA's client


def test_times_count_from_the_year_one() -> None:
    """Seconds count from 0001-01-01, as NVIDIA's client reads them."""
    assert (63750823591, KNOWN_TIME) == (seconds_of(KNOWN_TIME), time_of(63750823591))


def test_times_are_rounded_down_to_a_second() -> None:
    """The API has whole seconds."""
    assert seconds_of(KNOWN_TIME) == seconds_of(KNOWN_TIME + timedelta(microseconds=999999))


def test_codes_are_unique() -> None:
    """Every code has one name."""
    assert len(ClaraCode.__members__) == len(set(ClaraCode))
