"""Which jobs were made, what happened to each, and what an operator may do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

from dicom_adapter.api.values import Job, JobState
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import UNFINISHED, JobRow
from dicom_adapter.operations.story.values import Entry, StoryFacts
from dicom_adapter.operations.story.words import clock, counted, due, listed, sentence, short, until

MOST_TOLD = 6  # jobs of an AE title that are told one by one; of more, those that had no trouble are told together

STEPS = {  # what comes next in a state
    JobState.QUEUED: "create it on the platform",
    JobState.CREATED: "send its metadata",
    JobState.METADATA_SENT: "upload its instances",
    JobState.UPLOADED: "start it",
}
DONE = {"job_created": "created", "job_metadata_sent": "metadata sent", "job_uploaded": "uploaded"}
SAID = {
    "job_retried": "An operator had job {} tried again.",
    "job_cancel_requested": "An operator gave up job {}.",
    "job_cancelled": "Job {} was cancelled.",
}
AFTER = {f"job_{state.value.replace('-', '_')}": state for state in STEPS}


def happened(facts: StoryFacts) -> Iterator[Entry]:
    """What has happened to each job."""
    told, quiet, untold = _chosen(facts)
    for row, count in told:
        yield _queued(row.job, count)
        yield from _steps(row.job, facts.job_events.get(row.job.job_id, ()))
    if quiet:
        yield _together("job_submitted", f"{_more(told, quiet)} {_made(quiet)} and submitted", quiet)
    if untold:
        states = listed(_by_state(untold))
        command = f"`dicom-adapter jobs list --ae-title {facts.ae_title}`"
        text = f"{_more(told, untold)} {_made(untold)}: {states}; {command} shows them"
        yield _together("job_queued", text, untold)


def standing(facts: StoryFacts) -> Iterator[Entry]:
    """What unfinished and faulted jobs wait for."""
    told, _quiet, _untold = _chosen(facts)
    for row, _count in told:
        job = row.job
        fields = {"jobId": job.job_id, "state": job.state.value, "nextAttemptAt": job.next_attempt_at}
        if job.state is JobState.FAULTED:
            yield Entry(kind="job_faulted", at=None, text=_what_to_do(job), fields={**fields, "error": job.last_error})
        elif job.state in UNFINISHED:
            text = _what_next(job, facts.now, facts.uploaded.get(job.job_id, 0))
            yield Entry(kind="job_unfinished", at=None, text=text, fields={**fields, "error": job.last_error})


# --- which ------------------------------------------------------------------------------------------------------------

Counted = Sequence[tuple[JobRow, int]]


def _chosen(facts: StoryFacts) -> tuple[Counted, Counted, Counted]:
    """Jobs to be told one by one, those without trouble that are told together, and what is left."""
    if len(facts.told_jobs) <= MOST_TOLD:
        return facts.told_jobs, (), ()
    quiet = [entry for entry in facts.told_jobs if _was_quiet(facts, entry[0].job)]
    others = [entry for entry in facts.told_jobs if not _was_quiet(facts, entry[0].job)]
    return others[:MOST_TOLD], quiet, others[MOST_TOLD:]


def _was_quiet(facts: StoryFacts, job: Job) -> bool:
    quiet = {*DONE, "job_queued", "job_submitted", "job_platform_state"}
    return job.state is JobState.SUBMITTED and all(e.event in quiet for e in facts.job_events.get(job.job_id, ()))


def _more(told: Counted, others: Counted) -> str:
    return f"{len(others)} {'more jobs' if told else 'jobs'}"


def _made(entries: Counted) -> str:
    first, last = entries[0][0].job, entries[-1][0].job
    return f"were queued{until(first.created_at, last.created_at)}"


def _by_state(entries: Counted) -> Iterator[str]:
    for state in JobState:
        count = sum(row.job.state is state for row, _count in entries)
        if count:
            yield f"{count} {state.value}"


def _together(kind: str, text: str, entries: Counted) -> Entry:
    first = entries[0][0].job
    return Entry(kind=kind, at=first.created_at, text=sentence(text), fields={"jobs": len(entries)})


# --- what happened ----------------------------------------------------------------------------------------------------


def _queued(job: Job, count: int) -> Entry:
    others = job.instance_count - count
    text = (
        f"Job {short(job.job_id)} was queued with {counted(count, 'instance')}"
        + (f" of these and {others} of others" if others else "")
        + f": {job.name}, pipeline {job.pipeline_id}, priority {job.priority.value}."
    )
    fields = {
        "jobId": job.job_id,
        "name": job.name,
        "pipelineId": job.pipeline_id,
        "priority": job.priority.value,
        "instances": count,
        "others": others,
    }
    return Entry(kind="job_queued", at=job.created_at, text=text, fields=fields)


def _steps(job: Job, events: Sequence[Event]) -> Iterator[Entry]:
    """One entry for steps in a row that succeeded, one for attempts in a row that failed."""
    state = JobState.QUEUED
    for kind, run in groupby(events, key=_kind):
        own = list(run)
        error = str(own[-1].detail.get("error", ""))
        if kind == "steps":
            yield _went(job, own)
        elif kind == "job_attempt_failed":
            yield _failed(job, state, own)
        elif kind == "job_faulted":
            text = f"Job {short(job.job_id)} was faulted when it was to {_to(state)}: {error}"
            yield _of_job(job, "job_faulted", own, sentence(text), error=error)
        elif kind == "job_platform_state":
            yield from (_platform_said(job, event) for event in own)
        elif kind in SAID:
            yield _of_job(job, kind, own, SAID[kind].format(short(job.job_id)))
        state = next((AFTER[event.event] for event in reversed(own) if event.event in AFTER), state)


def _kind(event: Event) -> str:
    return "steps" if event.event in DONE or event.event == "job_submitted" else event.event


def _to(state: JobState) -> str:
    """What was to be done with a job, said of the job."""
    return {
        JobState.QUEUED: "be created on the platform",
        JobState.CREATED: "get its metadata",
        JobState.METADATA_SENT: "be uploaded",
        JobState.UPLOADED: "be started",
    }[state]


def _went(job: Job, events: Sequence[Event]) -> Entry:
    first, last = events[0].at, events[-1].at
    steps = [f"{DONE[event.event]} {clock(event.at, first)}" for event in events if event.event in DONE]
    if events[-1].event != "job_submitted":
        text = f"Job {short(job.job_id)} went on ({listed(steps)})"
    elif until(first, last):
        text = f"Job {short(job.job_id)} was submitted at {clock(last, first)} ({listed(steps)})"
    else:
        text = f"Job {short(job.job_id)} was submitted"
    ids = {"platformJobId": job.platform_job_id, "platformPayloadId": job.platform_payload_id}
    return _of_job(job, events[-1].event, events, f"{text}{_as_platform_job(job)}.", **ids)


def _as_platform_job(job: Job) -> str:
    payload = f", payload {job.platform_payload_id}" if job.platform_payload_id else ""
    return f": platform job {job.platform_job_id}{payload}" if job.platform_job_id else ""


def _failed(job: Job, state: JobState, events: Sequence[Event]) -> Entry:
    first, last = events[0].at, events[-1].at
    errors = list(dict.fromkeys(str(event.detail["error"]) for event in events))
    attempts = "An attempt" if len(events) == 1 else f"{len(events)} attempts"
    why = (
        f": {errors[0]}"
        if len(errors) == 1
        else f" for {len(errors)} reasons, the last time: {events[-1].detail['error']}"
    )
    text = f"{attempts} to {STEPS[state]} failed for job {short(job.job_id)}{until(first, last)}{why}"
    return _of_job(job, "job_attempt_failed", events, sentence(text), attempts=len(events), errors=errors)


def _platform_said(job: Job, event: Event) -> Entry:
    said = f" ({event.detail['said']})" if event.detail.get("said") else ""
    text = f"The platform said of job {short(job.job_id)}: {event.detail['state']}{said}."
    fields = {"state": event.detail["state"], "said": event.detail.get("said", "")}
    return _of_job(job, event.event, [event], text, **fields)


def _of_job(job: Job, kind: str, events: Sequence[Event], text: str, **fields: object) -> Entry:
    return Entry(kind=kind, at=events[0].at, text=text, fields={"jobId": job.job_id, **fields, "until": events[-1].at})


# --- how it stands ----------------------------------------------------------------------------------------------------


def _what_to_do(job: Job) -> str:
    name = short(job.job_id)
    return (
        f"Job {name} is faulted and keeps its instances. When the reason is mended: `dicom-adapter jobs retry {name}`; "
        f"to give it up: `dicom-adapter jobs cancel {name}`."
    )


def _what_next(job: Job, now: datetime, uploaded: int) -> str:
    step = "stop it on the platform" if job.cancel_requested else STEPS[job.state]
    text = f"Job {short(job.job_id)} is {job.state.value}"
    if job.cancel_requested:
        text += ", and is being cancelled"
    if uploaded:
        text += f", {uploaded} of {job.instance_count} files are uploaded"
    if job.next_attempt_at is None:
        return f"{text}; the next step is to {step}."
    return f"{text}; the next attempt to {step} is {due(job.next_attempt_at, now)}."
