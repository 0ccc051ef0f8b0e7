"""Entries about the AE title: its events, the reason why its instances wait now, and the next step for an operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from dicom_adapter.api.counts import counted
from dicom_adapter.api.values import Waiting
from dicom_adapter.ledger.events import JOB_INCOMPLETE, Event
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import InstanceState, LaneState
from dicom_adapter.ledger.selected_instances import SelectedInstance
from dicom_adapter.operations.story.values import Entry, StoryFacts
from dicom_adapter.operations.story.words import clock, due, listed, sentence, short, until

EVENTS = {
    "lane_stopped": "AE title {} was stopped",
    "lane_restarted": "AE title {} was restarted by an operator",
    "restart_requested": "An operator requested a restart of AE title {}",
    "lane_changed": "AE title {} was restarted, because a reload changed its settings",
    "processor_failed": "The processor of AE title {} failed",
    "ae_title_full": "AE title {} was full and refused instances",
    "wait_ended": "An operator ended the wait for missing instances at AE title {}",
    "ae_title_below_quota": "AE title {} accepted instances again",
}
MAX_EVENTS = 8  # number of events of an AE title that are shown: the newest events
MAX_JOBS = 3  # number of jobs that are named as the reason why instances are kept


def happened(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the events of the AE title while it had these instances; if there are many, only the last events."""
    # Events of incomplete jobs are omitted: `jobs` has entries for them, and the jobs may belong to other studies.
    shown = [event for event in facts.ae_title_events if event.event != JOB_INCOMPLETE]
    runs = [
        (kind, reason, list(run))
        for (kind, reason), run in groupby(shown, key=lambda event: (event.event, _reason(event)))
    ]
    for kind, reason, events in runs[-MAX_EVENTS:]:
        first, last = events[0].at, events[-1].at
        what = EVENTS.get(kind, f"AE title {{}}: {kind.replace('_', ' ')}").format(facts.ae_title)
        times = "" if len(events) == 1 else f" {len(events)} times{until(first, last)}"
        text = f"{what}{times}" + (f": {reason}" if reason else "")
        fields = {"reason": reason, "times": len(events), "until": last}
        yield Entry(kind=kind, at=first, text=sentence(text), fields=fields)


def _reason(event: Event) -> str:
    return str(event.detail.get("reason") or event.detail.get("error") or "")


def standing(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the current state of the AE title, and of all instances that are not reclaimed."""
    pending = _in(facts, InstanceState.PENDING)
    if facts.lane is not None:
        yield from _ae_title(facts.lane, facts)
    elif pending:
        text = f"AE title {facts.ae_title} is not served. Run `dicom-adapter check` to see whether it is configured."
        yield Entry(kind="not_served", at=None, text=text)
    if pending:
        yield _pending(facts, pending)
    quarantined = _in(facts, InstanceState.QUARANTINED)
    if quarantined:
        yield _quarantined(facts, quarantined)
    released = _in(facts, InstanceState.RELEASED)
    if released:
        yield _released(facts, released)


def _in(facts: StoryFacts, state: InstanceState) -> list[SelectedInstance]:
    return [arrival for arrival in facts.arrivals if arrival.state == state.value]


def _ae_title(lane: LaneReport, facts: StoryFacts) -> Iterator[Entry]:
    if lane.state is LaneState.STOPPED:
        text = (
            f"AE title {lane.ae_title} has been stopped since {clock(lane.since, facts.now)}: {sentence(lane.reason)} "
            f"Associations are rejected, and instances wait. Fix the cause, then run "
            f"`dicom-adapter ae-titles restart {lane.ae_title}`, or restart the service."
        )
        yield Entry(kind="lane_stopped", at=None, text=text, fields={"since": lane.since, "reason": lane.reason})
    elif lane.full_reason:
        text = (
            f"AE title {lane.ae_title} is full and refuses instances: {sentence(lane.full_reason)} "
            "Requeue or discard quarantined instances, or retry or cancel faulted and failed jobs."
        )
        yield Entry(kind="ae_title_full", at=None, text=text, fields={"reason": lane.full_reason})


def _pending(facts: StoryFacts, pending: Sequence[SelectedInstance]) -> Entry:
    lane = facts.lane
    count = counted(len(pending), "instance")
    verb = "waits" if len(pending) == 1 else "wait"
    if lane is None or lane.state is LaneState.STOPPED:
        return _waiting(pending, f"{count} {verb} until the AE title is served.")
    labels = {
        label
        for instance in pending
        for label in (f"study {instance.study_instance_uid}", f"series {instance.series_instance_uid}")
    }
    groups = [group for group in lane.waiting if group.label in labels]
    if groups:
        where = listed(f"the group {_described(group)}, which {_becomes_due(facts, group)}" for group in groups)
        text = f"{count} {verb} in {where}."
        missing = [f" Instances may be missing: {group.problem}." for group in groups if group.problem]
        if missing:
            studies = dict.fromkeys(instance.study_instance_uid for instance in pending)
            names = " ".join(f"--study {study}" for study in studies)
            missing.append(
                " Send the study again, or run "
                f"`dicom-adapter ae-titles end-wait {lane.ae_title} {names}` to submit what has arrived."
            )
        return _waiting(pending, "".join([text, *missing]), groups)
    text = f"{count} {verb} in the processor."
    return _waiting(pending, f"{text} {_next_group(facts, lane)}")


def _described(group: Waiting) -> str:
    return f"{group.label} ({counted(group.instance_count, 'instance')})"


def _becomes_due(facts: StoryFacts, group: Waiting) -> str:
    if group.until is None:
        return "waits for a request"
    return f"becomes jobs {due(group.until, facts.now)}"


def _next_group(facts: StoryFacts, lane: LaneReport) -> str:
    if not lane.waiting:
        return "It has reported no group yet."
    first = lane.waiting[0]
    number = f"{counted(lane.groups, 'group')} {'waits' if lane.groups == 1 else 'wait'} at AE title {lane.ae_title}"
    return f"{number}. The next group, {_described(first)}, {_becomes_due(facts, first)}."


def _waiting(pending: Sequence[SelectedInstance], text: str, groups: Sequence[Waiting] = ()) -> Entry:
    shown = [
        {"label": one.label, "instances": one.instance_count, "until": one.until, "problem": one.problem}
        for one in groups
    ]
    return Entry(kind="waiting", at=None, text=text, fields={"instances": len(pending), "groups": shown})


def _quarantined(facts: StoryFacts, held: Sequence[SelectedInstance]) -> Entry:
    is_single = len(held) == 1
    filters = str(held[0].instance_id) if is_single else f"--all --ae-title {facts.ae_title}"
    if not is_single and facts.study:
        filters += f" --study {facts.study}"
    text = (
        f"{counted(len(held), 'instance')} {'is' if is_single else 'are'} quarantined and in no job. Fix the cause, "
        f"then run `dicom-adapter instances requeue {filters}`. To discard {'it' if is_single else 'them'}, run "
        f"`dicom-adapter instances discard {filters}`."
    )
    return Entry(
        kind="quarantined", at=None, text=text, fields={"instanceIds": [arrival.instance_id for arrival in held]}
    )


def _released(facts: StoryFacts, kept: Sequence[SelectedInstance]) -> Entry:
    needed_by = [row.job for row, _count in facts.jobs if row.job.state not in FINISHED]
    count, verb = counted(len(kept), "instance"), "is" if len(kept) == 1 else "are"
    if needed_by:
        names = [short(job.job_id) for job in needed_by[:MAX_JOBS]]
        more = [f"{len(needed_by) - MAX_JOBS} more"] if len(needed_by) > MAX_JOBS else []
        text = f"{count} {verb} kept for job{'s' if len(needed_by) > 1 else ''} {listed([*names, *more])}."
    else:
        text = f"{count} will be reclaimed soon."
    fields = {"instances": len(kept), "jobs": [job.job_id for job in needed_by]}
    return Entry(kind="released", at=None, text=text, fields=fields)
