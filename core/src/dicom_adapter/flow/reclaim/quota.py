"""Beside steps 4 and 5: what is held until an operator decides, and the room that it may take.

Held are quarantined instances, those that only faulted jobs still need, and those of AE titles that are configured no
longer. When an AE title's quarantined and faulted ones reach the quota, it takes no more until there is room again.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import structlog

from dicom_adapter.ledger import Ledger, Transaction, events, lanes
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.held import Held, HeldBytes, count_held, count_held_bytes
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.quota")

CHANGING = (  # what is held; these events say so
    "instance_quarantined",
    "instance_requeued",
    "instance_discarded",
    "job_faulted",
    "job_retried",
    "job_cancel_requested",
)
ROOM_AGAIN = 0.95  # of the quota: below it, so that who is at the limit does not come and go with every instance
RECKON_ANEW_EVERY = timedelta(minutes=1)  # whatever the events say: a job that shared instances may have ended


class Quota:
    """Follows what is held. Used by one thread."""

    def __init__(self, ledger: Ledger, clock: Clock, quota_bytes: int, ae_titles: Collection[str]) -> None:
        """`ae_titles`: those that are configured."""
        self._ledger = ledger
        self._clock = clock
        self._quota_bytes = quota_bytes
        self._ae_titles = ae_titles
        self._seen = 0  # the last event that was looked at
        self._reckon_anew_at = clock.now()

    def look(self) -> None:
        """Reckon again where something has changed since the last look."""
        now = self._clock.now()
        anew = self._reckon_anew_at <= now
        with self._ledger.read() as transaction:
            last = events.last_number(transaction)
            changed = self._ae_titles if anew else events.ae_titles_after(transaction, self._seen, CHANGING)
        for ae_title in sorted(changed):
            if ae_title in self._ae_titles:
                self._reckon(ae_title)
            else:
                self._describe_unconfigured(now)
        self._seen = last
        if anew:
            self._reckon_anew_at = now + RECKON_ANEW_EVERY

    def _describe_unconfigured(self, now: datetime) -> None:
        with self._ledger.write() as transaction:
            describe_unconfigured(transaction, self._ae_titles, now)

    def _reckon(self, ae_title: str) -> None:
        with self._ledger.read() as transaction:
            held = count_held_bytes(transaction, ae_title)
            before = lanes.full(transaction).get(ae_title, "")
        is_full = reaches_quota(held.total, self._quota_bytes, was_full=bool(before))
        reason = _why(held, self._quota_bytes) if is_full else ""
        if reason != before:
            self._say(ae_title, reason, held, changed=is_full is not bool(before))

    def _say(self, ae_title: str, reason: str, held: HeldBytes, *, changed: bool) -> None:
        event = "ae_title_full" if reason else "ae_title_has_room"
        detail = {"bytes": held.total, "quota": self._quota_bytes}
        happened = Event(at=self._clock.now(), event=event, ae_title=ae_title, detail=detail)
        with self._ledger.write() as transaction:
            lanes.set_full(transaction, ae_title, reason)
            events.record(transaction, [happened] if changed else [])
        if changed and reason:
            log.error("ae_title_full", ae_title=ae_title, **detail)
        elif changed:
            log.info("ae_title_has_room", ae_title=ae_title, **detail)


def reaches_quota(held: int, quota: int, *, was_full: bool) -> bool:
    """Whether `held` bytes are too many. Nothing held is never too much; what was full needs some room to be so no
    longer."""
    return held > 0 and held >= (ROOM_AGAIN * quota if was_full else quota)


def describe_unconfigured(transaction: Transaction, ae_titles: Collection[str], now: datetime) -> None:
    """Keep lanes of AE titles that are configured no longer but have instances, as stopped; forget the others."""
    held = {name: count for name, count in count_held(transaction).items() if name not in ae_titles}
    lanes.delete_others(transaction, [*ae_titles, *held])
    known = lanes.load(transaction)
    for ae_title, count in held.items():
        reason, before = _not_configured(count), known.get(ae_title)
        was_stopped = before is not None and before.state is LaneState.STOPPED
        if before is None or not was_stopped or before.reason != reason:
            since = before.since if before is not None and was_stopped else now
            lanes.save(transaction, LaneReport(ae_title=ae_title, state=LaneState.STOPPED, reason=reason, since=since))


def _why(held: HeldBytes, quota: int) -> str:
    return (
        f"quarantine-quota = {quota} bytes is used up: quarantined instances take {held.quarantined} bytes, those of "
        f"faulted jobs {held.faulted}; `dicom-adapter instances requeue` or `discard`, and `dicom-adapter jobs retry` "
        "or `cancel`, make room"
    )


def _not_configured(held: Held) -> str:
    return (
        f"it is not configured; {held.pending} pending and {held.quarantined} quarantined instances are held: "
        "configure it again, or export and discard them"
    )
