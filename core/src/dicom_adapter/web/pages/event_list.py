"""Events as pages show them: sentences of few words, with links to jobs and instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from attrs import frozen

from dicom_adapter.ledger import Transaction, recorded_events
from dicom_adapter.ledger.events import Event
from dicom_adapter.web.pages.job_list import number_in

PAGE_ROWS = 100
SEARCHED = 20_000  # events among which a page looks for selected ones: few of them may be selected
KINDS = {  # titles of the kinds of events, by the beginning of their names
    "": "All",
    "job_": "Jobs",
    "result": "Results",
    "instance_": "Instances",
    "association_": "Associations",
    "lane_": "AE titles",
    "sign": "Access",
}
LONGEST_VALUE = 300  # characters of a value that are shown
HIDDEN = ("studies", "statuses")  # values that are too long for a line
BAD = ("failed", "faulted", "stopped", "refused", "hangs", "full")
WARN = ("quarantined", "incomplete", "discarded", "rejected", "cancel")
GOOD = ("succeeded", "submitted", "restarted", "requeued", "delivered", "collected")


@frozen(kw_only=True)
class ShownEvent:
    """An event in a list."""

    number: int
    at: datetime
    name: str  # stable name, as in the log
    title: str  # the name in words
    kind: str  # a key of KINDS
    tone: str
    ae_title: str
    job_id: str
    instance_id: int | None
    association_id: str
    details: Mapping[str, str]


def view_event(number: int, event: Event) -> ShownEvent:
    """Return an event as a list shows it."""
    return ShownEvent(
        number=number,
        at=event.at,
        name=event.event,
        title=event.event.replace("_", " "),
        kind=kind_of(event.event),
        tone=_tone(event.event),
        ae_title=event.ae_title,
        job_id=event.job_id or "",
        instance_id=event.instance_id,
        association_id=event.association_id or "",
        details=dict(_details(event)),
    )


def _details(event: Event) -> Iterator[tuple[str, str]]:
    for key, value in event.detail.items():
        if value in (None, "", [], {}) or key in HIDDEN:
            continue
        text = " ".join(_text_of(value).split())
        yield key.replace("_", " "), text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} …"


def _text_of(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tone(name: str) -> str:
    for tone, words in (("bad", BAD), ("warn", WARN), ("good", GOOD)):
        if any(word in name for word in words):
            return tone
    return "calm"


@frozen(kw_only=True)
class EventsContent:
    """The page of the events."""

    kind: str  # a key of KINDS
    ae_title: str
    choices: Sequence[tuple[str, str, bool]]  # link, title, and whether it is chosen
    lines: Sequence[ShownEvent]
    last: int  # number of the newest event; 0 if there is none
    older: str  # link to the next page; "" if there is none
    is_newest: bool  # the page shows the newest events, so it is updated live


def events_page(transaction: Transaction, query: Mapping[str, str]) -> EventsContent:
    """Return a page of events, with the filters of the address."""
    kind = query.get("kind", "") if query.get("kind", "") in KINDS else ""
    ae_title, before = query.get("ae-title", ""), number_in(query.get("before", ""))
    last = recorded_events.last_number(transaction)
    end = last + 1 if before is None else min(before, last + 1)
    found = recorded_events.newest(
        transaction, PAGE_ROWS, searched=SEARCHED, before=end, ae_title=ae_title or None, prefix=kind
    )
    next_end = found[-1][0] if len(found) == PAGE_ROWS else end - SEARCHED
    return EventsContent(
        kind=kind,
        ae_title=ae_title,
        choices=[(events_link(each, ae_title), title, each == kind) for each, title in KINDS.items()],
        lines=[view_event(number, event) for number, event in found],
        last=last,
        older=events_link(kind, ae_title, next_end) if next_end > 1 else "",
        is_newest=before is None,
    )


def events_link(kind: str, ae_title: str, before: int | None = None) -> str:
    """Return the address of a page of events."""
    values = {"kind": kind, "ae-title": ae_title, "before": before}
    query = urlencode({key: value for key, value in values.items() if value not in ("", None)})
    return f"/events?{query}" if query else "/events"


def kind_of(name: str) -> str:
    """Return the kind of an event: a key of KINDS."""
    return next((kind for kind in KINDS if kind and name.startswith(kind)), "")
