"""When a message is sent: gathering, pauses, quiet hours, digests and urgent events."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_adapter import Notice, NoticeKind
from dicom_adapter.config import NotificationConfig
from dicom_adapter.host.notifications.pending import Pending
from dicom_adapter.host.notifications.schedule import next_message

JOB, STORAGE = NoticeKind.JOB_FAULTED, NoticeKind.STORAGE
DAY = datetime(2026, 3, 28, tzinfo=timezone.utc)  # in Berlin, summer time begins the day after, at 01:00 UTC


def at(hour: int, minute: int = 0, *, day: int = 0) -> datetime:
    return DAY + timedelta(days=day, hours=hour, minutes=minute)


def table(**values: Any) -> NotificationConfig:
    return NotificationConfig(type="kept", **{"time_zone": "UTC", **values})


def pending(*events: tuple[NoticeKind, datetime]) -> Pending:
    found = Pending()
    for kind, moment in events:
        notice = Notice(kind=kind, ae_title="", subject=f"{moment}", text="", count=1, first_at=moment, last_at=moment)
        found.add(notice, moment, recoveries=True)
    return found


def due(settings: NotificationConfig, waiting: Pending, last: datetime | None = None) -> tuple[datetime, int] | None:
    found = next_message(settings, waiting, last)
    return None if found is None else (found.at, len(found.notices))


def test_nothing_is_due_without_events() -> None:
    assert None is due(table(), Pending())


def test_events_are_gathered_from_the_first_on() -> None:
    waiting = pending((JOB, at(8)), (JOB, at(8, 1)))
    assert (at(8) + timedelta(seconds=30), 2) == due(table(), waiting)


def test_a_message_waits_for_the_pause_after_the_last_message() -> None:
    assert (at(8, 4), 1) == due(table(pause=300.0), pending((JOB, at(8))), at(7, 59))
    assert (at(8), 1) == due(table(pause=300.0, gather=0.0), pending((JOB, at(8))), at(7, 55))


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(at(21, 59), at(21, 59)), (at(22), at(6, day=1)), (at(2), at(6)), (at(6), at(6)), (at(12), at(12))],
)
def test_quiet_hours_end_in_the_morning(moment: datetime, expected: datetime) -> None:
    assert (expected, 1) == due(table(gather=0.0, quiet_hours=("22:00-06:00",)), pending((JOB, moment)))


def test_quiet_hours_may_follow_each_other() -> None:
    settings = table(gather=0.0, quiet_hours=("06:00-07:00", "22:00-06:00"))
    assert (at(7, day=1), 1) == due(settings, pending((JOB, at(23))))


def test_urgent_events_are_sent_alone_in_quiet_hours() -> None:
    settings = table(gather=0.0, quiet_hours=("22:00-06:00",), urgent=(STORAGE,))
    waiting = pending((JOB, at(23)), (STORAGE, at(23, 5)))
    found = next_message(settings, waiting, None)
    assert found is not None
    assert (at(23, 5), [STORAGE]) == (found.at, [notice.kind for notice in found.notices])
    waiting.sent(found.notices)
    assert (at(6, day=1), 1) == due(settings, waiting, found.at)


def test_urgent_events_are_sent_with_the_others_outside_of_quiet_hours() -> None:
    settings = table(gather=0.0, urgent=(STORAGE,))
    assert (at(12), 2) == due(settings, pending((JOB, at(12)), (STORAGE, at(12, 1))))


def test_a_digest_is_sent_at_the_next_of_its_times() -> None:
    settings = table(digest=("07:30", "16:00"))
    assert (at(16), 1) == due(settings, pending((JOB, at(8))))
    assert (at(7, 30, day=1), 1) == due(settings, pending((JOB, at(16, 1))))


def test_times_of_the_day_are_those_of_the_time_zone() -> None:
    """07:30 in Berlin is 06:30 UTC in winter, and 05:30 UTC from the next day on."""
    settings = table(digest=("07:30",), time_zone="Europe/Berlin")
    assert (at(6, 30), 1) == due(settings, pending((JOB, at(5))))
    assert (at(5, 30, day=1), 1) == due(settings, pending((JOB, at(7))))


TIMES = st.integers(0, 24 * 60 - 1).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")


@given(spans=st.lists(st.tuples(TIMES, TIMES).filter(lambda s: s[0] != s[1]), max_size=3), minute=st.integers(0, 2880))
def test_quiet_hours_delay_a_message_by_less_than_a_day(spans: list[tuple[str, str]], minute: int) -> None:
    """Spans may overlap in any way. Those that cover the whole day are refused."""
    moment = DAY + timedelta(minutes=minute)
    try:
        settings = table(gather=0.0, quiet_hours=tuple("-".join(span) for span in spans))
    except ValueError as error:
        assert "must not cover the whole day" in str(error)
        return
    found = next_message(settings, pending((JOB, moment)), None)
    assert found is not None
    assert moment <= found.at < moment + timedelta(days=1)
