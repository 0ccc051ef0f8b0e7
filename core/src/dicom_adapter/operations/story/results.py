"""Entries about results: their collection, their quarantine, and results that destinations have sent back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from dicom_adapter.api.counts import counted
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.schema import InstanceOutcome, InstanceState
from dicom_adapter.operations.story.values import Entry, StoryFacts
from dicom_adapter.operations.story.words import clock, listed, sentence, short, until, was, with_reason

MAX_NAMED = 3  # number of results that are named in a sentence
ACTIONS = {  # by event: the action, and the addition if the event has a reason, {}
    "result_requeued": ("released for delivery", ", although the check failed: {}"),
    "result_discarded": ("discarded", ""),
}
OUTCOMES = {
    InstanceOutcome.SUBMITTED: "after delivery",
    InstanceOutcome.CANCELLED: "after cancellation of every delivery",
    InstanceOutcome.UNUSED: "without a delivery, after the time for which results are kept",
    InstanceOutcome.DISCARDED: "after being discarded by an operator",
}


def happened(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the events of results."""
    for row, _count in facts.subject_jobs:
        for event in facts.job_events.get(row.job.job_id, ()):
            if event.event == "results_collected":
                yield _collected(event)
            elif event.event == "results_sender_unknown":
                yield _sender_unknown(event)
    if not any(event.event == "results_collected" for events in facts.job_events.values() for event in events):
        yield from _made(facts)
    yield from _quarantined(facts)
    for kind, (what, although) in ACTIONS.items():
        yield from _acted(facts, kind, what, although)
    yield from _returned(facts)
    yield from _reclaimed(facts)


def standing(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the state of the results that wait for an operator, or are only kept."""
    held = [one for one in facts.results if one.state == InstanceState.QUARANTINED.value]
    if held:
        numbers = " ".join(str(one.instance_id) for one in held)
        text = (
            f"{counted(len(held), 'result')} {_are(held)} quarantined and not delivered. To look "
            f"at {_them(held)}, run `dicom-adapter results export {numbers} --to FOLDER`. Then "
            f"run `dicom-adapter results requeue {numbers}` or `dicom-adapter results discard {numbers}`."
        )
        yield Entry(
            kind="results_quarantined", at=None, text=text, fields={"instanceIds": [one.instance_id for one in held]}
        )
    kept = [one for one in facts.results if one.state == InstanceState.RELEASED.value and one.keep_until is not None]
    if kept:
        last = max(one.keep_until for one in kept if one.keep_until is not None)
        text = f"{counted(len(kept), 'result')} {_are(kept)} kept until {clock(last, facts.now)}."
        yield Entry(kind="results_kept", at=None, text=text, fields={"results": len(kept), "until": last})


def _collected(event: Event) -> Entry:
    quarantined, attachments = event.number("quarantined"), event.number("attachments")
    parts = [counted(event.number("results"), "result")]
    if quarantined:
        parts.append(f"{quarantined} more that {was(quarantined)} quarantined")
    if attachments:
        parts.append(counted(attachments, "attachment"))
    text = f"Job {short(str(event.job_id))} produced {listed(parts)}.{_attachments(event)}"
    return Entry(kind=event.event, at=event.at, text=text, fields={"jobId": event.job_id, **event.detail})


def _attachments(event: Event) -> str:
    """Return where the attachments are delivered; "" if there are none, or no destinations."""
    if not event.number("attachments"):
        return ""
    if event.detail.get("attachments_wait"):
        return " The attachments are not delivered, because no DICOM output has passed the check."
    to = event.names("attachments_to")
    without = [name for name in event.names("destinations") if name not in to]
    sent = f" The attachments are delivered to {listed(to)}." if to else ""
    takes = "takes" if len(without) == 1 else "take"
    left = f" They are not sent to {listed(without)}, which {takes} DICOM only." if without else ""
    return sent + (left if to else left.replace(" They", " The attachments", 1))


def _sender_unknown(event: Event) -> Entry:
    senders = event.names("senders")
    job = short(str(event.job_id))
    text = (
        f"The results of job {job} are not delivered to {listed(senders) or 'their senders'}, as to-sender = true "
        "requires: no submitter sends to this AE title. Add a [submitters.<name>] table for it and reload the "
        f"configuration. Then run `dicom-adapter results requeue --all --state released --job {job}`."
    )
    return Entry(kind=event.event, at=event.at, text=text, fields={"jobId": event.job_id, "senders": senders})


def _made(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the origin of results if the jobs that have produced them are not in the story."""
    for source in dict.fromkeys(one.source_job for one in facts.results):
        own = [one for one in facts.results if one.source_job == source]
        job_id = facts.sources.get(source or 0, "")
        name = f"Job {short(job_id)}" if job_id else f"Job number {source}, which was deleted from the ledger,"
        text = f"{name} produced {'this result' if len(own) == 1 else f'these {len(own)} results'}."
        fields = {"jobId": job_id, "results": len(own)}
        yield Entry(kind="results_collected", at=own[0].received_at, text=text, fields=fields)


def _quarantined(facts: StoryFacts) -> Iterator[Entry]:
    reasons: dict[str, list[Event]] = {}
    for event in _named(facts, "result_quarantined"):
        reasons.setdefault(event.text("reason"), []).append(event)
    for reason, events in reasons.items():
        text = f"{counted(len(events), 'result')} {was(len(events))} quarantined"
        fields = {"results": len(events), "reason": reason}
        yield Entry(kind="result_quarantined", at=events[0].at, text=with_reason(text, reason), fields=fields)


def _acted(facts: StoryFacts, kind: str, what: str, although: str) -> Iterator[Entry]:
    alike: dict[tuple[str, str], list[Event]] = {}
    for event in _named(facts, kind):
        alike.setdefault((event.text("by"), event.text("reason")), []).append(event)
    for (by, reason), events in alike.items():
        first, last = _span(event.at for event in events)
        text = (
            f"{counted(len(events), 'result')} {was(len(events))} {what}{f' by {by}' if by else ''}{until(first, last)}"
        )
        text += although.format(reason) if reason else ""
        fields = {"results": len(events), "by": by, "reason": reason, "until": last}
        yield Entry(kind=kind, at=first, text=sentence(text), fields=fields)


def _returned(facts: StoryFacts) -> Iterator[Entry]:
    events = _named(facts, "result_returned")
    if events:
        first, last = _span(event.at for event in events)
        numbers = [event.text("result") for event in events if event.text("result")]
        more = [f"{len(events) - MAX_NAMED} more"] if len(events) > MAX_NAMED else []
        which = f" (result {listed([*numbers[:MAX_NAMED], *more])})" if numbers else ""
        they = "it" if len(events) == 1 else "they"
        text = (
            f"{counted(len(events), 'instance')} {was(len(events))} not processed{until(first, last)}: the adapter has "
            f"sent {_them(events)} itself{which}, and {they} came back."
        )
        yield Entry(kind="result_returned", at=first, text=text, fields={"instances": len(events), "until": last})


def _reclaimed(facts: StoryFacts) -> Iterator[Entry]:
    gone = [one for one in facts.results if one.state == InstanceState.RECLAIMED.value]
    for outcome, why in OUTCOMES.items():
        own = [one for one in gone if one.outcome == outcome.value]
        if own:
            first, last = _span(one.changed_at for one in own)
            text = f"{counted(len(own), 'result')} {was(len(own))} reclaimed{until(first, last)} {why}."
            fields = {"results": len(own), "outcome": outcome.value, "until": last}
            yield Entry(kind="results_reclaimed", at=first, text=text, fields=fields)


def _are(several: Sequence[object]) -> str:
    return "is" if len(several) == 1 else "are"


def _them(several: Sequence[object]) -> str:
    return "it" if len(several) == 1 else "them"


def _named(facts: StoryFacts, name: str) -> Sequence[Event]:
    return [event for event in facts.instance_events if event.event == name]


def _span(times: Iterable[datetime]) -> tuple[datetime, datetime]:
    ordered = sorted(times)
    return ordered[0], ordered[-1]
