"""What instances wait for now, until when, and what an operator may do; and what befell the AE title meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from dicom_adapter.api.values import Waiting
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import InstanceState, LaneState
from dicom_adapter.ledger.traces import InstanceTrace
from dicom_adapter.operations.story.values import Entry, StoryFacts
from dicom_adapter.operations.story.words import clock, counted, due, listed, sentence, short, until

HAPPENED = {
    "lane_stopped": "it was stopped",
    "lane_restarted": "it began again, because an operator wanted it",
    "lane_changed": "it began again, because a reload changed its settings",
    "processor_failed": "its processor failed",
    "ae_title_full": "it took nothing more",
    "ae_title_below_quota": "it took instances again",
}
MOST_EVENTS = 8  # of an AE title that are told
MOST_JOBS = 3  # that are named where one says why instances are kept


def happened(facts: StoryFacts) -> Iterator[Entry]:
    """What happened to the AE title as a whole while it had these instances; if that is much, the last of it."""
    runs = [
        (kind, reason, list(run))
        for (kind, reason), run in groupby(facts.ae_title_events, key=lambda event: (event.event, _reason(event)))
    ]
    for kind, reason, events in runs[-MOST_EVENTS:]:
        first, last = events[0].at, events[-1].at
        what = HAPPENED.get(kind, kind.replace("_", " "))
        times = "" if len(events) == 1 else f", {len(events)} times{until(first, last)}"
        text = f"AE title {facts.ae_title}: {what}{times}" + (f": {reason}" if reason else "")
        fields = {"reason": reason, "times": len(events), "until": last}
        yield Entry(kind=kind, at=first, text=sentence(text), fields=fields)


def _reason(event: Event) -> str:
    return str(event.detail.get("reason") or event.detail.get("error") or "")


def standing(facts: StoryFacts) -> Iterator[Entry]:
    """Everything that is not reclaimed, and whether the AE title takes more."""
    pending = _in(facts, InstanceState.PENDING)
    if facts.lane is not None:
        yield from _ae_title(facts.lane, facts)
    elif pending:
        text = f"No service has served AE title {facts.ae_title}: `dicom-adapter check` shows whether it is configured."
        yield Entry(kind="not_served", at=None, text=text)
    if pending:
        yield _pending(facts, pending)
    quarantined = _in(facts, InstanceState.QUARANTINED)
    if quarantined:
        yield _quarantined(facts, quarantined)
    released = _in(facts, InstanceState.RELEASED)
    if released:
        yield _released(facts, released)


def _in(facts: StoryFacts, state: InstanceState) -> list[InstanceTrace]:
    return [arrival for arrival in facts.arrivals if arrival.state == state.value]


def _ae_title(lane: LaneReport, facts: StoryFacts) -> Iterator[Entry]:
    if lane.state is LaneState.STOPPED:
        text = (
            f"AE title {lane.ae_title} is stopped since {clock(lane.since, facts.now)}: {sentence(lane.reason)} "
            f"Associations are refused, and instances wait. When the reason is mended: "
            f"`dicom-adapter ae-titles restart {lane.ae_title}`, or start the service again."
        )
        yield Entry(kind="lane_stopped", at=None, text=text, fields={"since": lane.since, "reason": lane.reason})
    elif lane.full:
        text = f"AE title {lane.ae_title} takes nothing more: {sentence(lane.full)}"
        yield Entry(kind="ae_title_full", at=None, text=text, fields={"reason": lane.full})


def _pending(facts: StoryFacts, pending: Sequence[InstanceTrace]) -> Entry:
    lane = facts.lane
    count = counted(len(pending), "instance")
    verb = "waits" if len(pending) == 1 else "wait"
    if lane is None or lane.state is LaneState.STOPPED:
        return _waiting(pending, f"{count} {verb} for the AE title to be served.")
    labels = {
        label for one in pending for label in (f"study {one.study_instance_uid}", f"series {one.series_instance_uid}")
    }
    groups = [group for group in lane.waiting if group.label in labels]
    if groups:
        where = listed(f"the group {_described(group)}, which {_becomes_due(facts, group)}" for group in groups)
        return _waiting(pending, f"{count} {verb} in {where}.", groups)
    text = f"{count} {verb}: the processor holds {'it' if len(pending) == 1 else 'them'}."
    return _waiting(pending, f"{text} {_others(facts, lane)}")


def _described(group: Waiting) -> str:
    return f"{group.label} ({counted(group.instance_count, 'instance')})"


def _becomes_due(facts: StoryFacts, group: Waiting) -> str:
    if group.until is None:
        return "waits until somebody asks for it"
    return f"becomes jobs {due(group.until, facts.now)}"


def _others(facts: StoryFacts, lane: LaneReport) -> str:
    if not lane.waiting:
        return "It has not told of any group yet."
    first = lane.waiting[0]
    number = f"{counted(lane.groups, 'group')} {'waits' if lane.groups == 1 else 'wait'} at {lane.ae_title}"
    return f"{number}; the next one, {_described(first)}, {_becomes_due(facts, first)}."


def _waiting(pending: Sequence[InstanceTrace], text: str, groups: Sequence[Waiting] = ()) -> Entry:
    told = [{"label": one.label, "instances": one.instance_count, "until": one.until} for one in groups]
    return Entry(kind="waiting", at=None, text=text, fields={"instances": len(pending), "groups": told})


def _quarantined(facts: StoryFacts, held: Sequence[InstanceTrace]) -> Entry:
    one = len(held) == 1
    filters = str(held[0].instance_id) if one else f"--all --ae-title {facts.ae_title}"
    if not one and facts.study:
        filters += f" --study {facts.study}"
    text = (
        f"{counted(len(held), 'instance')} {'is' if one else 'are'} quarantined and in no job. When the reason is "
        f"mended: `dicom-adapter instances requeue {filters}`; to give {'it' if one else 'them'} up: "
        f"`dicom-adapter instances discard {filters}`."
    )
    return Entry(
        kind="quarantined", at=None, text=text, fields={"instanceIds": [arrival.instance_id for arrival in held]}
    )


def _released(facts: StoryFacts, kept: Sequence[InstanceTrace]) -> Entry:
    needed_by = [row.job for row, _count in facts.jobs if row.job.state not in FINISHED]
    count = counted(len(kept), "instance")
    if needed_by:
        names = [short(job.job_id) for job in needed_by[:MOST_JOBS]]
        more = [f"{len(needed_by) - MOST_JOBS} more"] if len(needed_by) > MOST_JOBS else []
        text = f"{count} stored for job{'s' if len(needed_by) > 1 else ''} {listed([*names, *more])}."
    else:
        text = f"{count} about to be reclaimed."
    fields = {"instances": len(kept), "jobs": [job.job_id for job in needed_by]}
    return Entry(kind="released", at=None, text=text, fields=fields)
