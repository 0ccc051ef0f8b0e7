"""The senders by calling AE title: the last association, what was sent, rejections, and how long they were silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from attrs import frozen

from dicom_adapter.ledger import Transaction, senders
from dicom_adapter.ledger.microseconds import EPOCH
from dicom_adapter.operations.senders import SenderReport, describe, name_of, next_step, report, silence_of

MOST_SENDERS = 200  # senders on the page


@frozen(kw_only=True)
class RejectionLine:
    """Rejections of a sender for one kind of reason."""

    text: str
    last_at: datetime
    next_step: str
    is_over: bool  # an association was accepted afterwards: `Rejected.since` is None


@frozen(kw_only=True)
class SenderLine:
    """A sender."""

    name: str
    peers: Sequence[str]
    state: str  # "active", "silent", "rejected" or "never accepted"
    tone: str
    last_at: datetime
    first_at: datetime
    silent_for: timedelta | None  # None: it is not silent
    associations: int
    instances: int
    refused: int
    ae_titles: Sequence[tuple[str, datetime, int]]  # AE title, last association, instances
    rejections: Sequence[RejectionLine]


@frozen(kw_only=True)
class SendersContent:
    """The page of the senders."""

    lines: Sequence[SenderLine]
    name: str  # the filter; "": all
    more: int  # senders that are not shown


def senders_page(transaction: Transaction, query: Mapping[str, str], now: datetime) -> SendersContent:
    """Return the page of the senders; the newest come first."""
    found = report(senders.load(transaction), senders.rejected(transaction, EPOCH))
    name = query.get("name", "").strip()
    chosen = [one for one in found if name.lower() in one.calling_ae_title.lower()]
    chosen.sort(key=lambda one: one.last_at, reverse=True)
    lines = [view_sender(one, now) for one in chosen[:MOST_SENDERS]]
    return SendersContent(lines=lines, name=name, more=max(0, len(chosen) - MOST_SENDERS))


def view_sender(found: SenderReport, now: datetime) -> SenderLine:
    """Return a sender as the page shows it."""
    silent_for = silence_of(found, now)
    rejections = [
        RejectionLine(text=describe(one), last_at=one.last_at, next_step=next_step(one), is_over=one.since is None)
        for one in found.rejected
    ]
    is_rejected = any(not one.is_over for one in rejections)
    state, tone = "active", "good"
    if is_rejected:
        state, tone = ("rejected", "bad") if found.accepted else ("never accepted", "bad")
    elif silent_for is not None:
        state, tone = "silent", "warn"
    by_ae_title: dict[str, tuple[datetime, int]] = {}  # last association, instances
    for one in found.accepted:
        at, count = by_ae_title.get(one.ae_title, (one.last_at, 0))
        by_ae_title[one.ae_title] = max(at, one.last_at), count + one.instances
    return SenderLine(
        name=found.calling_ae_title or name_of("", found.peers),
        peers=found.peers,
        state=state,
        tone=tone,
        last_at=found.last_at,
        first_at=found.first_at,
        silent_for=silent_for,
        associations=found.associations,
        instances=found.instances,
        refused=found.refused,
        ae_titles=[(ae_title, at, count) for ae_title, (at, count) in by_ae_title.items()],
        rejections=rejections,
    )
