"""The codes and times of the wire."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from dicom_adapter_clara_client.wire.codes import ClaraCode, seconds_of, time_of

NOTED = datetime(2021, 3, 8, 18, 6, 31, tzinfo=timezone.utc)  # 63750823591 in the tests of NVIDIA's client


def test_times_count_from_the_year_one() -> None:
    """Seconds count from 0001-01-01, as NVIDIA's client reads them."""
    assert (63750823591, NOTED) == (seconds_of(NOTED), time_of(63750823591))


def test_parts_of_a_second_are_cut_off() -> None:
    """The wire has whole seconds."""
    assert seconds_of(NOTED) == seconds_of(NOTED + timedelta(microseconds=999999))


def test_no_two_codes_are_the_same() -> None:
    """Every code has one name."""
    assert len(ClaraCode.__members__) == len(set(ClaraCode))
