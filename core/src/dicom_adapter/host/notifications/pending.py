"""The notices that wait for the next message, merged by kind, AE title and subject. The number of notices is bounded.

A condition that begins and ends before the message is sent is in the message once, as over. The end of a condition is a
notice of its own only if the beginning was sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from attrs import Factory, define, evolve, frozen

from dicom_adapter.api.notifier import Notice, NoticeKind

MOST_NOTICES = 500  # in one message; further events are counted without their subjects
MOST_JOBS = 5  # ids in one notice
OTHERS = "others"  # the subject of notices above the limit

Key = tuple[NoticeKind, str, str]  # kind, AE title, subject


def key_of(notice: Notice) -> Key:
    """Return what notices that are merged have in common."""
    return notice.kind, notice.ae_title, notice.subject


@frozen
class PendingNotice:
    """A notice that waits for the next message."""

    notice: Notice
    since: datetime  # UTC; when it was added


@define
class Pending:
    """The pending notices, and the conditions that were reported and have not ended."""

    notices: dict[Key, PendingNotice] = Factory(dict)
    reported: dict[Key, None] = Factory(dict)  # in the order of their messages

    def add(self, notice: Notice, now: datetime, *, recoveries: bool) -> None:
        """Add a notice. `recoveries`: add the end of a reported condition."""
        key = key_of(notice)
        known = self.notices.get(key)
        if known is not None:
            self.notices[key] = evolve(known, notice=_merged(known.notice, notice))
        elif notice.is_over:
            if key in self.reported and recoveries:
                self.notices[key] = PendingNotice(notice, now)
            else:
                self.reported.pop(key, None)
        elif len(self.notices) >= MOST_NOTICES and notice.subject != OTHERS:
            self.add(evolve(notice, ae_title="", subject=OTHERS), now, recoveries=recoveries)
        else:
            self.notices[key] = PendingNotice(notice, now)

    def update(self, notice: Notice) -> None:
        """Replace the text of a condition that still lasts, if it is pending."""
        known = self.notices.get(key_of(notice))
        if known is not None and not known.notice.is_over:
            changed = evolve(known.notice, text=notice.text, last_at=notice.last_at)
            self.notices[key_of(notice)] = evolve(known, notice=changed)

    def select(self, kinds: Collection[NoticeKind] | None = None) -> list[PendingNotice]:
        """Return the pending notices of these kinds, or all, in the order of their first events."""
        found = [one for one in self.notices.values() if kinds is None or one.notice.kind in kinds]
        return sorted(found, key=lambda one: one.notice.first_at)

    def sent(self, notices: Iterable[Notice]) -> None:
        """Remove notices that were sent. Remember the conditions that last."""
        for notice in notices:
            key = key_of(notice)
            self.notices.pop(key, None)
            self.reported.pop(key, None)
            if not notice.is_over:
                self.reported[key] = None
        while len(self.reported) > MOST_NOTICES:
            self.reported.pop(next(iter(self.reported)))


def _merged(before: Notice, new: Notice) -> Notice:
    """Return one notice for both."""
    if new.is_over:
        return evolve(before, is_over=True, last_at=max(before.last_at, new.last_at))
    return evolve(
        new,
        count=before.count + new.count,
        first_at=min(before.first_at, new.first_at),
        last_at=max(before.last_at, new.last_at),
        job_ids=(*before.job_ids, *new.job_ids)[:MOST_JOBS],
    )
