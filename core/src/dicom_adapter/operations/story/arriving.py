"""What came from whom, what came again, what was refused, and what became of it in the end."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby

from attrs import frozen

from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.schema import InstanceOutcome, InstanceState
from dicom_adapter.ledger.traces import InstanceTrace
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.operations.story.values import Entry, StoryFacts
from dicom_adapter.operations.story.words import clock, counted, listed, sentence, short, until, was

MOST_ALONE = 3  # associations of a visit that are told one by one; more are told together
MOST_VISITS = 8  # of a sender's visits that are told one by one; more are told together

ENDED = {"released": "was released", "aborted": "was aborted", "lost": "lost its connection"}
OUTCOMES = {
    InstanceOutcome.SUBMITTED: "after submission",
    InstanceOutcome.CANCELLED: "after cancellation of every job",
    InstanceOutcome.UNUSED: "without a job: that is what the processor decided",
    InstanceOutcome.REPLACED: "because of newer arrivals",
    InstanceOutcome.DISCARDED: "because an operator discarded what was there",
}
HAPPENED = {  # others are said as they are called
    "instance_recovered": "entered in the ledger by a later start",
    "instance_requeued": "given back to the processor",
}
# Those of these that have no row are told with the instances that they repeat.
KNOWN_BY_INSTANCE = (CStoreStatus.SUCCESS.name, CStoreStatus.DUPLICATE_SOP_INSTANCE.name)


@frozen(kw_only=True)
class Visit:
    """What one sender brought before the next jobs were made of it, by association."""

    calling_ae_title: str
    peer_address: str
    associations: dict[str, list[InstanceTrace]]


def arrived(facts: StoryFacts) -> Iterator[Entry]:
    """What was kept, with what else those associations came to."""
    counted_already: set[str] = set()  # an association that lasted may be cut into several visits
    for visit in _visits(facts):
        together = len(visit.associations) > MOST_ALONE
        parts = [visit.associations] if together else [{name: own} for name, own in visit.associations.items()]
        for part in parts:
            yield _received(facts, visit, part)
            yield from _refused(facts, [name for name in part if name not in counted_already])
            counted_already.update(part)


def repeated(facts: StoryFacts) -> Iterator[Entry]:
    """What came again while the same SOP instance was pending: replaced, not kept, refused."""
    old = [arrival for arrival in facts.arrivals if arrival.replaced_by is not None]
    if old:
        yield _replaced(facts, old)
    again = [event for event in facts.instance_events if event.association_id and "status" in event.detail]
    by_kind: dict[tuple[str, ...], list[Event]] = {}
    for event in again:
        end = facts.associations.get(event.association_id or "")
        key = (event.event, str(event.detail["reason"]), str(event.detail["status"]), _sender_of(end))
        by_kind.setdefault(key, []).append(event)
    for (kind, reason, status, sender), events in by_kind.items():
        yield _came_again(facts, kind, reason, status, sender, events)


def interventions(facts: StoryFacts) -> Iterator[Entry]:
    """What was quarantined and why, and what operators did then."""
    others = [event for event in facts.instance_events if "status" not in event.detail]
    for _event, run in groupby(others, key=lambda event: event.event):
        alike: dict[tuple[str, str, str], list[Event]] = {}
        for event in run:
            key = str(event.detail.get("reason", "")), str(event.detail.get("by", "")), _became(event)
            alike.setdefault(key, []).append(event)
        for (reason, by, what), events in alike.items():
            yield _happened(reason, by, what, events)


def reclaimed(facts: StoryFacts) -> Iterator[Entry]:
    """What room was given back, and what it had been good for."""
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
    """Cut where arrivals became jobs: what came later is told later."""
    due = sorted({row.job.created_at for row, _count in facts.jobs})
    visits = _cut(facts.arrivals, due)
    return visits if len(visits) <= MOST_VISITS else _cut(facts.arrivals, [])


def _cut(arrivals: Iterable[InstanceTrace], due: Sequence[datetime]) -> list[Visit]:
    visits: dict[tuple[str, str, int], Visit] = {}
    for arrival in arrivals:
        # One that arrives exactly when its group is due still belongs to it.
        key = (arrival.calling_ae_title, arrival.peer_address, bisect_left(due, arrival.received_at))
        visit = visits.get(key)
        if visit is None:
            visit = visits[key] = Visit(calling_ae_title=key[0], peer_address=key[1], associations={})
        visit.associations.setdefault(arrival.association_id, []).append(arrival)
    return list(visits.values())


def _received(facts: StoryFacts, visit: Visit, part: dict[str, list[InstanceTrace]]) -> Entry:
    own = [arrival for arrivals in part.values() for arrival in arrivals]
    first, last = _span(arrival.received_at for arrival in own)
    ends = {name: facts.associations.get(name) for name in part}
    text = f"{visit.calling_ae_title} ({visit.peer_address}) sent {counted(len(own), 'instance')}"
    series = len({arrival.series_instance_uid for arrival in own})
    if series > 1:
        text += f" in {series} series"
    if len(part) > 1:
        text += f", in {len(part)} associations,{until(first, last)}; {_how_many_ended(ends.values())}."
    else:
        [(name, end)] = ends.items()
        text += f"{until(first, last)}; association {short(name)} {_how_it_ended(end, first)}."
    fields = {
        "instances": len(own),
        "series": series,
        "callingAeTitle": visit.calling_ae_title,
        "peer": visit.peer_address,
        "until": last,
        "associations": {name: _how(facts, name) for name in part},
    }
    return Entry(kind="instances_stored", at=first, text=text, fields=fields)


def _how(facts: StoryFacts, association_id: str) -> str | None:
    """As the receiver says it; None: it is open, or nobody wrote down its end."""
    end = facts.associations.get(association_id)
    return None if end is None else str(end.detail["how"])


def _how_it_ended(end: Event | None, beside: datetime) -> str:
    if end is None:
        return "is open, or its end was not recorded"
    return f"{ENDED[str(end.detail['how'])]} at {clock(end.at, beside)}"


def _how_many_ended(ends: Iterable[Event | None]) -> str:
    how = Counter("" if end is None else str(end.detail["how"]) for end in ends)
    told = [f"{how[name]} {was(how[name])} {name}" for name in ENDED if how[name]]
    if how[""]:
        told.append(f"of {how['']} no end is recorded")
    return listed(told)


def _refused(facts: StoryFacts, part: Iterable[str]) -> Iterator[Entry]:
    """The ledger keeps no UIDs of what was refused, only how many of an association were, and how."""
    ends = [end for name in part if (end := facts.associations.get(name)) is not None]
    counts: Counter[str] = Counter()
    for end in ends:
        statuses = end.detail["statuses"]
        assert isinstance(statuses, dict)  # as the receiver writes it
        counts.update({name: count for name, count in statuses.items() if name not in KNOWN_BY_INSTANCE})
    if not counts:
        return
    refusals = listed(
        f"{count} with 0x{CStoreStatus[name]:04X} ({name.lower().replace('_', ' ')})" for name, count in counts.items()
    )
    which = f"association {short(str(ends[0].association_id))}" if len(ends) == 1 else f"these {len(ends)} associations"
    text = (
        f"Of all that came in {which}, {refusals} {was(counts.total())} refused; the log names them (instance_refused)."
    )
    yield Entry(kind="instance_refused", at=ends[-1].at, text=text, fields={"statuses": dict(counts)})


# --- again ------------------------------------------------------------------------------------------------------------


def _replaced(facts: StoryFacts, old: Sequence[InstanceTrace]) -> Entry:
    first, last = _span(arrival.changed_at for arrival in old)
    text = (
        f"{counted(len(old), 'instance')} came again{until(first, last)}; the newer arrivals replaced the earlier ones."
    )
    if facts.moved_to:
        text += f" Newer ones belong to study {listed(facts.moved_to)} now."
    fields = {"instances": len(old), "until": last, "movedTo": list(facts.moved_to)}
    return Entry(kind="replaced", at=first, text=text, fields=fields)


def _came_again(facts: StoryFacts, kind: str, reason: str, status: str, sender: str, events: Sequence[Event]) -> Entry:
    first, last = _span(event.at for event in events)
    associations = {str(event.association_id): _how(facts, str(event.association_id)) for event in events}
    count = len(events)
    [(one, how), *more] = associations.items()
    where = f"{len(associations)} associations" if more else f"association {short(one)}"
    if how and not more:
        where += f", which {ENDED[how]},"
    outcome = f"{was(count)} not kept" if kind == "instance_not_kept" else f"{was(count)} refused with {status}"
    text = f"{counted(count, 'instance')} came again{sender} in {where}{until(first, last)} and {outcome}: {reason}"
    fields = {"instances": count, "status": status, "reason": reason, "until": last, "associations": associations}
    return Entry(kind=kind, at=first, text=sentence(text), fields=fields)


def _sender_of(end: Event | None) -> str:
    return "" if end is None else f" from {end.detail['calling_ae_title']} ({end.detail['peer']})"


def _became(event: Event) -> str:
    """What was done with an instance; what a processor has to tell it says itself."""
    kind = event.event
    return str(event.detail.get("what", HAPPENED.get(kind, kind.removeprefix("instance_").replace("_", " "))))


def _happened(reason: str, by: str, what: str, events: Sequence[Event]) -> Entry:
    first, last = _span(event.at for event in events)
    kind, count = events[0].event, len(events)
    text = f"{counted(count, 'instance')} {was(count)} {what}{f' by {by}' if by else ''}{until(first, last)}"
    fields = {"instances": count, "reason": reason, "by": by, "until": last}
    return Entry(kind=kind, at=first, text=sentence(f"{text}: {reason}" if reason else text), fields=fields)


def _span(times: Iterable[datetime]) -> tuple[datetime, datetime]:
    ordered = sorted(times)
    return ordered[0], ordered[-1]
