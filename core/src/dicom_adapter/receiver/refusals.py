"""Recent refusals of a receiver for reasons of the adapter, not of the sender: the health shows all of them.

This module only collects the refusals that the receiver reports. A refusal is shown for SHOWN_FOR, and longer while the
cause exists: there is no space for the data set that was refused, or the sender has as many associations as it may.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from attrs import define, field

from dicom_adapter.api.counts import counted
from dicom_adapter.ledger.health import PartState
from dicom_adapter.runtime.watch import PartFinding

SHOWN_FOR = timedelta(seconds=45)  # after the last refusal: the health is green again within a minute
MAX_SHOWN_FOR = timedelta(hours=1)  # after the last refusal, while its cause can be seen
MAX_KEPT = 100  # maximum number of senders at a limit that are kept
MAX_LISTED = 3  # number of causes in the reason

ANY_SENDER = ""


@define
class _Refused:
    """Refusals that have the same cause."""

    first: datetime
    last: datetime
    reason: str = field(default="", repr=False)
    counts: dict[str, int] = field(factory=dict)  # by what was refused: "instance", "association" or "connection"
    largest: int = 0  # bytes of the largest data set among them


class RecentRefusals:
    """The recent refusals of one receiver. Thread-safe; a refusal costs a few microseconds."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._failures: dict[str, _Refused] = {}  # no space, or a failure: at most one entry, with the key ANY_SENDER
        self._limits: dict[str, _Refused] = {}  # by the sender's address
        self._lock = threading.Lock()

    def record(self, what: str, reason: str, data_set_bytes: int = 0) -> None:
        """Record that an instance or association was refused, because there is no space or something failed."""
        self._record(self._failures, ANY_SENDER, what, reason, data_set_bytes)

    def record_limit(self, what: str, reason: str, sender: str) -> None:
        """Record that an association or connection was refused because of a limit."""
        self._record(self._limits, sender, what, reason, 0)

    def _record(self, kept: dict[str, _Refused], sender: str, what: str, reason: str, data_set_bytes: int) -> None:
        now = self._now()
        with self._lock:
            if sender not in kept and len(kept) >= MAX_KEPT:
                del kept[next(iter(kept))]
            entry = kept.setdefault(sender, _Refused(now, now))
            entry.last, entry.reason = now, reason
            entry.counts[what] = entry.counts.get(what, 0) + 1
            entry.largest = max(entry.largest, data_set_bytes)

    def forget_old(self, fits: Callable[[int], bool], at_limit: Collection[str]) -> None:
        """Forget the refusals whose causes have gone.

        `fits`: returns whether there is enough space for a data set of this size; `at_limit`: the senders that have as
        many associations as they may, with ANY_SENDER if no sender may open another association.
        """
        now = self._now()
        with self._lock:
            for sender, entry in list(self._failures.items()):
                if _is_old(entry, now, cause_exists=bool(entry.largest) and not fits(entry.largest)):
                    del self._failures[sender]
            for sender, entry in list(self._limits.items()):
                if _is_old(entry, now, cause_exists=sender in at_limit or ANY_SENDER in at_limit):
                    del self._limits[sender]

    def finding(self) -> PartFinding:
        """Return the finding for health."""
        with self._lock:
            texts = [_describe(entry) for entry in self._failures.values()]
            state = PartState.FAILING if texts else PartState.DEGRADED
            texts += [f"{sender}: {_describe(entry)}" for sender, entry in self._limits.items()]
        if not texts:
            return PartFinding()
        more = [f"and {counted(len(texts) - MAX_LISTED, 'other sender')}"] if len(texts) > MAX_LISTED else []
        return PartFinding(state=state, reason="; ".join([*texts[:MAX_LISTED], *more]))


def _is_old(entry: _Refused, now: datetime, *, cause_exists: bool) -> bool:
    return not now - entry.last <= (MAX_SHOWN_FOR if cause_exists else SHOWN_FOR)


def _describe(entry: _Refused) -> str:
    counts = " and ".join(counted(count, what) for what, count in entry.counts.items())
    largest = f"; the largest data set has {entry.largest} bytes" if entry.largest else ""
    return f"{counts} refused since {entry.first:%Y-%m-%d %H:%M:%S} UTC: {entry.reason}{largest}"
