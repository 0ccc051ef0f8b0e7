"""Step 7 (`reclaim`) of the flow: limit the space of held instances, which are kept until an operator decides.

An instance is held if it is quarantined, if only faulted and failed jobs still need it, or if its AE title is not
configured any more. When the held instances of an AE title reach the quota, the AE title accepts no more instances
until they use less space.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import structlog

from dicom_adapter.ledger import Ledger, Transaction, events, lanes, recorded_events
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.held import Held, HeldBytes, count_held, count_held_bytes, count_held_results
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.quota")

QUOTA_EVENTS = (  # events that change the number of held instances of an AE title
    "instance_quarantined",
    "instance_requeued",
    "instance_discarded",
    "result_quarantined",
    "result_requeued",
    "result_discarded",
    "job_faulted",
    "job_failed",
    "job_retried",
    "job_cancel_requested",
)
HYSTERESIS = 0.95  # a full AE title accepts instances again below 95 % of its quota, to avoid alternation
# Time between two checks of all AE titles. An instance of a faulted job is held only after its other jobs have ended:
# their ends are not in QUOTA_EVENTS.
REFRESH_EVERY = timedelta(minutes=1)


class Quota:
    """Watches the held instances of each AE title. Not thread-safe: used by one thread only."""

    def __init__(self, ledger: Ledger, clock: Clock, quota_bytes: int, ae_titles: Collection[str]) -> None:
        """Watch the configured `ae_titles`."""
        self._ledger = ledger
        self._clock = clock
        self._quota_bytes = quota_bytes
        self._ae_titles = ae_titles
        self._seen = 0  # the number of the last event that was read
        self._refresh_at = clock.now()

    def update(self) -> None:
        """Check the AE titles with one of QUOTA_EVENTS since the last call, and all of them after REFRESH_EVERY."""
        now = self._clock.now()
        refresh = self._refresh_at <= now
        with self._ledger.read() as transaction:
            last = recorded_events.last_number(transaction)
            changed = (
                self._ae_titles if refresh else recorded_events.ae_titles_after(transaction, self._seen, QUOTA_EVENTS)
            )
        for ae_title in sorted(changed):
            if ae_title in self._ae_titles:
                self._check(ae_title)
            else:
                self._describe_unconfigured(now)
        self._seen = last
        if refresh:
            self._refresh_at = now + REFRESH_EVERY

    def _describe_unconfigured(self, now: datetime) -> None:
        with self._ledger.write() as transaction:
            describe_unconfigured(transaction, self._ae_titles, now)

    def _check(self, ae_title: str) -> None:
        with self._ledger.read() as transaction:
            held = count_held_bytes(transaction, ae_title)
            before = lanes.full(transaction).get(ae_title, "")
            is_full = reaches_quota(held.total, self._quota_bytes, was_full=bool(before))
            of_results = count_held_results(transaction, ae_title) if is_full else 0
        reason = _quota_reason(held, of_results, self._quota_bytes) if is_full else ""
        if reason != before:
            self._report(ae_title, reason, held, changed=is_full is not bool(before))

    def _report(self, ae_title: str, reason: str, held: HeldBytes, *, changed: bool) -> None:
        event = "ae_title_full" if reason else "ae_title_below_quota"
        detail = {"bytes": held.total, "quota": self._quota_bytes}
        change = Event(at=self._clock.now(), event=event, ae_title=ae_title, detail=detail)
        with self._ledger.write() as transaction:
            lanes.set_full(transaction, ae_title, reason)
            events.record(transaction, [change] if changed else [])
        if changed and reason:
            log.error("ae_title_full", ae_title=ae_title, **detail)
        elif changed:
            log.info("ae_title_below_quota", ae_title=ae_title, **detail)


def reaches_quota(held: int, quota: int, *, was_full: bool) -> bool:
    """Return whether `held` bytes reach the quota; 0 bytes never reach it. The limit is lower if `was_full`."""
    return held > 0 and held >= (HYSTERESIS * quota if was_full else quota)


def describe_unconfigured(transaction: Transaction, ae_titles: Collection[str], now: datetime) -> None:
    """Record unconfigured AE titles with held instances as stopped lanes. Delete the lanes of the other AE titles."""
    held = {name: count for name, count in count_held(transaction).items() if name not in ae_titles}
    lanes.delete_others(transaction, [*ae_titles, *held])
    known = lanes.load(transaction)
    for ae_title, count in held.items():
        reason, before = _unconfigured_reason(count), known.get(ae_title)
        was_stopped = before is not None and before.state is LaneState.STOPPED
        if before is None or not was_stopped or before.reason != reason:
            since = before.since if before is not None and was_stopped else now
            lanes.save(transaction, LaneReport(ae_title=ae_title, state=LaneState.STOPPED, reason=reason, since=since))


def _quota_reason(held: HeldBytes, of_results: int, quota: int) -> str:
    """Return why an AE title is full, with the commands that free space: only those for what is held."""
    parts = [
        (held.quarantined - of_results, "quarantined instances", "`dicom-adapter instances requeue` or `discard`"),
        (of_results, "quarantined results", "`dicom-adapter results requeue` or `discard`"),
        (held.in_jobs, "instances of faulted and failed jobs", "`dicom-adapter jobs retry` or `cancel`"),
    ]
    uses = ", ".join(f"{size} bytes by {what}" for size, what, _commands in parts if size)
    commands = ", or with ".join(commands for size, _what, commands in parts if size)
    return f"quarantine-quota = {quota} bytes is used up: {uses}; free space with {commands}"


def _unconfigured_reason(count: Held) -> str:
    kinds = [f"{count.pending} pending", f"{count.quarantined} quarantined instances"]
    if count.results:
        kinds.append(f"{count.results} quarantined results")
    return (
        f"it is not configured; {', '.join(kinds[:-1])} and {kinds[-1]} are held: "
        "configure it again, or export and discard them"
    )
