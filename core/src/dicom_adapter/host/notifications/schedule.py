"""Decide when a message is sent. All functions are pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

from attrs import frozen

from dicom_adapter.api.notifier import Notice
from dicom_adapter.config.notifications import NotificationConfig, parse_time
from dicom_adapter.host.notifications.pending import Pending

DAY = timedelta(days=1)


@frozen(kw_only=True)
class Due:
    """The next message."""

    at: datetime  # UTC
    notices: Sequence[Notice]


def next_message(table: NotificationConfig, pending: Pending, last_sent: datetime | None) -> Due | None:
    """Return the next message; None if nothing is pending. Of two messages at the same time, that with all notices."""
    messages = []
    for kinds in (None, table.urgent):
        waiting = pending.select(kinds)
        if waiting:
            earliest = min(one.since for one in waiting) + timedelta(seconds=table.gather)
            if last_sent is not None:
                earliest = max(earliest, last_sent + timedelta(seconds=table.pause))
            at = earliest if kinds is not None else _allowed(table, earliest)
            messages.append(Due(at=at, notices=[one.notice for one in waiting]))
    return min(messages, key=lambda due: due.at, default=None)


def _allowed(table: NotificationConfig, earliest: datetime) -> datetime:
    """Return the first time from `earliest` on at which a message may be sent that is not urgent."""
    zone = None if table.time_zone is None else ZoneInfo(table.time_zone)
    if table.digest:
        return _next_digest([parse_time(text) for text in table.digest], earliest, zone)
    return _after_quiet_hours(table.quiet_hours, earliest, zone)


def _next_digest(times: Sequence[time], earliest: datetime, zone: ZoneInfo | None) -> datetime:
    day = _day(earliest, zone)
    found = [_instant(day + number * DAY, at, zone) for number in range(3) for at in times]
    return min(moment for moment in found if moment >= earliest)


def _after_quiet_hours(spans: Sequence[str], moment: datetime, zone: ZoneInfo | None) -> datetime:
    for _pass in spans:  # a span may begin where another ends
        before = moment
        for span in spans:
            moment = _after_span(span, moment, zone)
        if moment == before:
            break
    return moment


def _after_span(span: str, moment: datetime, zone: ZoneInfo | None) -> datetime:
    """Return the end of the span if it contains the moment, else the moment."""
    start, _, end = span.partition("-")
    first, last = parse_time(start), parse_time(end)
    for day in (_day(moment, zone) - DAY, _day(moment, zone)):
        ends_on = day if first < last else day + DAY
        if _instant(day, first, zone) <= moment < _instant(ends_on, last, zone):
            return _instant(ends_on, last, zone)
    return moment


def _day(moment: datetime, zone: ZoneInfo | None) -> date:
    return moment.astimezone(zone).date()


def _instant(day: date, at: time, zone: ZoneInfo | None) -> datetime:
    """Return a time of the day in UTC. Without a zone, it is in the zone of the machine."""
    return datetime.combine(day, at, tzinfo=zone).astimezone(timezone.utc)
