"""Entries about arrivals: stored instances, duplicates, refusals, quarantine and reclaim."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby

from attrs import frozen

from dicom_adapter.api.counts import counted
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.schema import InstanceOutcome, InstanceState
from dicom_adapter.ledger.selected_instances import SelectedInstance
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.operations.story.values import Entry, StoryFacts
from dicom_adapter.operations.story.words import clock, listed, short, until, was, with_reason

MAX_SINGLE = 3  # number of associations of a visit with separate entries; more are merged into one entry
MAX_VISITS = 8  # number of visits with separate entries; more are merged into one visit for each sender

ENDED = {"released": "was released", "aborted": "was aborted", "lost": "lost its connection"}
OUTCOMES = {
    InstanceOutcome.SUBMITTED: "after submission",
    InstanceOutcome.CANCELLED: "after cancellation of every job",
    InstanceOutcome.UNUSED: "without a job, because the processor created none",
    InstanceOutcome.REPLACED: "after being replaced by newer arrivals",
    InstanceOutcome.DISCARDED: "after being discarded by an operator",
}
ACTIONS = {  # texts of events; the texts of all other events are derived from their names
    "instance_recovered": "entered in the ledger at a later start of the service",
}
DROPPED = "instance_ignored"  # event of a duplicate without a row; it refers to the instance that was kept


@frozen(kw_only=True)
class Visit:
    """The instances that one sender sent between two creations of jobs, by association."""

    calling_ae_title: str
    peer_address: str
    associations: dict[str, list[SelectedInstance]]


def stored(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the stored instances, and the refusals and ends of their associations."""
    reported: set[str] = set()  # associations whose refusals have an entry: a visit boundary may split an association
    for visit in _visits(facts):
        together = len(visit.associations) > MAX_SINGLE
        parts = [visit.associations] if together else [{name: own} for name, own in visit.associations.items()]
        for part in parts:
            yield _received(facts, visit, part)
            yield from _refused(facts, [name for name in part if name not in reported])
            reported.update(part)


def duplicated(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the duplicates that replaced the pending instance, or were not kept."""
    old = [arrival for arrival in facts.arrivals if arrival.replaced_by is not None]
    if old:
        yield _replaced(facts, old)
    alike: dict[tuple[str, str], list[Event]] = {}
    for event in facts.instance_events:
        if event.event == DROPPED:
            sender = _sender_of(facts.associations.get(event.association_id or ""))
            alike.setdefault((event.text("reason"), sender), []).append(event)
    for (reason, sender), events in alike.items():
        yield _dropped(facts, reason, sender, events)


def interventions(facts: StoryFacts) -> Iterator[Entry]:
    """Yield quarantines with their reasons, and the actions of operators."""
    others = [
        event
        for event in facts.instance_events
        if event.event != DROPPED and not event.event.startswith("result_")  # see `results`
    ]
    for _event, run in groupby(others, key=lambda event: event.event):
        alike: dict[tuple[str, str, str], list[Event]] = {}
        for event in run:
            key = event.text("reason"), event.text("by"), _action(event)
            alike.setdefault(key, []).append(event)
        for (reason, by, what), events in alike.items():
            yield _intervention(reason, by, what, events)


def reclaimed(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the reclaimed instances by outcome."""
    gone = [arrival for arrival in facts.arrivals if arrival.state == InstanceState.RECLAIMED.value]
    for outcome, why in OUTCOMES.items():
        own = [arrival for arrival in gone if arrival.outcome == outcome.value]
        if own:
            first, last = _span(arrival.changed_at for arrival in own)
            text = f"{counted(len(own), 'instance')} {was(len(own))} reclaimed{until(first, last)} {why}."
            fields = {"instances": len(own), "outcome": outcome.value, "until": last}
            yield Entry(kind="instances_reclaimed", at=first, text=text, fields=fields)


# --- visits -----------------------------------------------------------------------------------------------------------


def _visits(facts: StoryFacts) -> list[Visit]:
    """Split the arrivals at the times when jobs were created, so that entries and jobs are in the order of time."""
    due = sorted({row.job.created_at for row, _count in facts.jobs})
    visits = _cut(facts.arrivals, due)
    return visits if len(visits) <= MAX_VISITS else _cut(facts.arrivals, [])


def _cut(arrivals: Iterable[SelectedInstance], due: Sequence[datetime]) -> list[Visit]:
    visits: dict[tuple[str, str, int], Visit] = {}
    for arrival in arrivals:
        # An instance that arrives exactly when its group is due still belongs to the group.
        key = (arrival.calling_ae_title, arrival.peer_address, bisect_left(due, arrival.received_at))
        visit = visits.get(key)
        if visit is None:
            visit = visits[key] = Visit(calling_ae_title=key[0], peer_address=key[1], associations={})
        visit.associations.setdefault(arrival.association_id, []).append(arrival)
    return list(visits.values())


def _received(facts: StoryFacts, visit: Visit, part: dict[str, list[SelectedInstance]]) -> Entry:
    own = [arrival for arrivals in part.values() for arrival in arrivals]
    first, last = _span(arrival.received_at for arrival in own)
    ends = {name: facts.associations.get(name) for name in part}
    text = f"{visit.calling_ae_title} ({visit.peer_address}) sent {counted(len(own), 'instance')}"
    series = len({arrival.series_instance_uid for arrival in own})
    if series > 1:
        text += f" in {series} series"
    if len(part) > 1:
        period = until(first, last)
        text += f", in {len(part)} associations{',' if period else ''}{period}; {_count_ends(ends.values())}."
    else:
        [(name, end)] = ends.items()
        text += f"{until(first, last)}; association {short(name)} {_end_of(end, first)}."
    fields = {
        "instances": len(own),
        "series": series,
        "callingAeTitle": visit.calling_ae_title,
        "peer": visit.peer_address,
        "until": last,
        "associations": {name: _recorded_end(facts, name) for name in part},
    }
    return Entry(kind="instances_stored", at=first, text=text, fields=fields)


def _recorded_end(facts: StoryFacts, association_id: str) -> str | None:
    """Return the recorded end of the association; None if the association is open or its end was not recorded."""
    end = facts.associations.get(association_id)
    return None if end is None else end.text("how") or None


def _end_of(end: Event | None, reference: datetime) -> str:
    if end is None:
        return "is open, or its end was not recorded"
    cut_off = " in the middle of an instance" if end.detail.get("cut_off") else ""
    return f"{ENDED.get(end.text('how'), 'ended')}{cut_off} at {clock(end.at, reference)}"


def _count_ends(ends: Iterable[Event | None]) -> str:
    how = Counter("" if end is None else end.text("how") for end in ends)
    counts = [f"{how[name]} {was(how[name])} {name}" for name in ENDED if how[name]]
    if how[""]:
        counts.append(f"{how['']} {'has' if how[''] == 1 else 'have'} no recorded end")
    return listed(counts)


def _refused(facts: StoryFacts, part: Iterable[str]) -> Iterator[Entry]:
    """Yield the refusals by status. The ledger has their number for each association, but no UIDs."""
    ends = [end for name in part if (end := facts.associations.get(name)) is not None]
    counts: Counter[str] = Counter()
    for end in ends:
        statuses = end.counts("statuses").items()
        counts.update({name: count for name, count in statuses if name != CStoreStatus.SUCCESS.name})
    if not counts:
        return
    refusals = listed(
        f"{count} with 0x{CStoreStatus[name]:04X} ({name.lower().replace('_', ' ')})" for name, count in counts.items()
    )
    where = f"association {short(str(ends[0].association_id))}" if len(ends) == 1 else f"these {len(ends)} associations"
    text = (
        f"{counted(counts.total(), 'instance')} {was(counts.total())} refused in {where}: {refusals}. "
        "The log of the receiver has their UIDs (instance_refused)."
    )
    yield Entry(kind="instance_refused", at=ends[-1].at, text=text, fields={"statuses": dict(counts)})


# --- duplicates -------------------------------------------------------------------------------------------------------


def _replaced(facts: StoryFacts, old: Sequence[SelectedInstance]) -> Entry:
    first, last = _span(arrival.changed_at for arrival in old)
    text = f"{counted(len(old), 'instance')} {was(len(old))} replaced by newer arrivals{until(first, last)}."
    if facts.moved_to:
        text += f" Newer arrivals belong to study {listed(facts.moved_to)}."
    fields = {"instances": len(old), "until": last, "movedTo": list(facts.moved_to)}
    return Entry(kind="replaced", at=first, text=text, fields=fields)


def _dropped(facts: StoryFacts, reason: str, sender: str, events: Sequence[Event]) -> Entry:
    first, last = _span(event.at for event in events)
    associations = {str(event.association_id): _recorded_end(facts, str(event.association_id)) for event in events}
    count = len(events)
    [(association, how), *more] = associations.items()
    where = f"{len(associations)} associations" if more else f"association {short(association)}"
    if how and not more:
        where += f", which {ENDED.get(how, 'ended')}"
    they = "It was" if count == 1 else "They were"
    text = f"{counted(count, 'duplicate')} arrived{sender} in {where}{until(first, last)}. {they} not kept"
    fields = {"instances": count, "reason": reason, "until": last, "associations": associations}
    return Entry(kind=DROPPED, at=first, text=with_reason(text, reason), fields=fields)


def _sender_of(end: Event | None) -> str:
    """Return the sender of an association; "" if its end, or the sender with it, was not recorded."""
    calling = "" if end is None else end.text("calling_ae_title")
    return f" from {calling} ({end.text('peer')})" if end is not None and calling else ""


def _action(event: Event) -> str:
    """Return the action on an instance as text; a processor may have recorded its own text."""
    kind = event.event
    return str(event.detail.get("what", ACTIONS.get(kind, kind.removeprefix("instance_").replace("_", " "))))


def _intervention(reason: str, by: str, what: str, events: Sequence[Event]) -> Entry:
    first, last = _span(event.at for event in events)
    kind, count = events[0].event, len(events)
    text = f"{counted(count, 'instance')} {was(count)} {what}{f' by {by}' if by else ''}{until(first, last)}"
    fields = {"instances": count, "reason": reason, "by": by, "until": last}
    return Entry(kind=kind, at=first, text=with_reason(text, reason), fields=fields)


def _span(times: Iterable[datetime]) -> tuple[datetime, datetime]:
    ordered = sorted(times)
    return ordered[0], ordered[-1]
