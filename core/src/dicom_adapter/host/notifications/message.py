"""The texts of a message."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import datetime

from dicom_adapter.api.counts import counted
from dicom_adapter.api.notifier import Notice, NoticeKind, Notification


def make_notification(notices: Sequence[Notice], notification_id: str, now: datetime) -> Notification:
    """Return the message with these notices."""
    source = socket.gethostname()
    return Notification(
        notification_id=notification_id,
        created_at=now,
        source=source,
        title=_title(source, notices),
        text="\n".join(map(line_of, notices)),
        notices=tuple(notices),
    )


def make_test(now: datetime) -> Notification:
    """Return a message that only tests the way to people."""
    text = "an operator tests this notification; nothing has happened"
    notice = Notice(kind=NoticeKind.TEST, ae_title="", subject="test", text=text, count=1, first_at=now, last_at=now)
    return make_notification([notice], f"test-{now:%Y%m%d%H%M%S%f}", now)


def _title(source: str, notices: Sequence[Notice]) -> str:
    """Return for example `dicom-adapter on gw1: job-faulted at LUNG, and 2 more notices`."""
    first = next((notice for notice in notices if not notice.is_over), notices[0])
    what = f"{first.subject} is over" if first.is_over else first.kind.value
    where = f" at {first.ae_title}" if first.ae_title else ""
    more = f", and {counted(len(notices) - 1, 'more notice')}" if len(notices) > 1 else ""
    return f"dicom-adapter on {source}: {what}{where}{more}"


def line_of(notice: Notice) -> str:
    """Return the line of a notice, with its kind, subject and times."""
    where = (
        notice.subject
        if not notice.ae_title or notice.ae_title in notice.subject
        else f"{notice.ae_title}, {notice.subject}"
    )
    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (notice.first_at, notice.last_at))
    when = f"{first} UTC" if first == last else f"{first} to {last} UTC"
    times = f", {notice.count} times" if notice.count > 1 else ""
    over = " It is over." if notice.is_over else ""
    jobs = f" (jobs {', '.join(job_id[:8] for job_id in notice.job_ids)})" if notice.job_ids else ""
    return f"[{notice.kind.value}] {where}: {notice.text}{jobs} ({when}{times}).{over}"
