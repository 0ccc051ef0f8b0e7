"""Entries about jobs: their steps, failures and states, and the commands for faulted and failed jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

from dicom_adapter.api.counts import counted
from dicom_adapter.api.values import INTERRUPTED, SOURCE_JOB, Job, JobState
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import HELD, UNFINISHED, JobRow, is_on_platform
from dicom_adapter.operations.story.values import Entry, StoryFacts
from dicom_adapter.operations.story.words import clock, due, listed, sentence, short, until, with_reason
from dicom_adapter.operations.waiting_jobs import why_waits

MAX_JOBS = 6  # number of jobs of an AE title with separate entries; if there are more, jobs without failures share one

STEPS = {  # the next step in each state
    JobState.QUEUED: "create it on the platform",
    JobState.CREATED: "send its metadata",
    JobState.METADATA_SENT: "upload its instances",
    JobState.UPLOADED: "start it",
    JobState.RUNNING: "collect its results",
}
DONE = {"job_created": "created", "job_metadata_sent": "metadata sent", "job_uploaded": "uploaded"}
SENTENCES = {
    "job_retried": "An operator retried job {}.",
    "job_prioritized": "An operator changed the priority of job {}.",
    "job_cancel_requested": "An operator requested the cancellation of job {}.",
    "job_cancelled": "Job {} was cancelled.",
    "job_succeeded": "Job {} has succeeded, and its results are stored.",
}
FAILURES = {
    "job_failed": "Job {} failed on the platform",
    "job_clean_up_failed": "The platform refused to delete the files of job {}",
}
# The state of a job after an event
AFTER = {f"job_{state.value.replace('-', '_')}": state for state in STEPS} | {"job_submitted": JobState.RUNNING}


def happened(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the events of each job."""
    single, quiet, rest = _select(facts)
    for row, count in single:
        yield _queued(facts, row.job, count)
        yield from _steps(row.job, facts.job_events.get(row.job.job_id, ()))
    if quiet:
        yield _together("job_submitted", f"{_more(single, quiet)} {_were_queued(quiet)} and submitted", quiet)
    if rest:
        states = listed(_by_state(rest))
        command = f"`dicom-adapter jobs list --ae-title {facts.ae_title}`"
        text = f"{_more(single, rest)} {_were_queued(rest)}: {states}. Run {command} to list them"
        yield _together("job_queued", text, rest)


def standing(facts: StoryFacts) -> Iterator[Entry]:
    """Yield the next step of each unfinished job, and the commands for each faulted or failed job."""
    single, _quiet, _rest = _select(facts)
    for row, _count in single:
        job = row.job
        fields: dict[str, object] = {"jobId": job.job_id, "state": job.state.value}
        fields["nextAttemptAt"] = job.next_attempt_at
        if job.state in HELD:
            yield Entry(
                kind=f"job_{job.state.value}", at=None, text=_commands(job), fields={**fields, "error": job.last_error}
            )
        elif job.state in UNFINISHED:
            waits = why_waits(job, facts.parts, facts.now)
            text = _next_step(job, facts.now, facts.uploaded.get(job.job_id, 0), waits)
            fields |= {"error": job.last_error, "waitsFor": waits}
            yield Entry(kind="job_unfinished", at=None, text=text, fields=fields)


# --- selection --------------------------------------------------------------------------------------------------------

Counted = Sequence[tuple[JobRow, int]]


def _select(facts: StoryFacts) -> tuple[Counted, Counted, Counted]:
    """Return the jobs with separate entries, the jobs without failures that share one entry, and the other jobs."""
    if len(facts.subject_jobs) <= MAX_JOBS:
        return facts.subject_jobs, (), ()
    quiet = [entry for entry in facts.subject_jobs if _had_no_failure(facts, entry[0].job)]
    others = [entry for entry in facts.subject_jobs if not _had_no_failure(facts, entry[0].job)]
    return others[:MAX_JOBS], quiet, others[MAX_JOBS:]


def _had_no_failure(facts: StoryFacts, job: Job) -> bool:
    quiet = {*DONE, "job_queued", "job_submitted", "job_succeeded", "job_platform_state"}
    return job.state in (JobState.SUBMITTED, JobState.SUCCEEDED) and all(
        e.event in quiet for e in facts.job_events.get(job.job_id, ())
    )


def _more(single: Counted, others: Counted) -> str:
    return f"{len(others)} {'more jobs' if single else 'jobs'}"


def _were_queued(entries: Counted) -> str:
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


# --- events -----------------------------------------------------------------------------------------------------------


def _queued(facts: StoryFacts, job: Job, count: int) -> Entry:
    if SOURCE_JOB in job.metadata:
        return _delivery(job)
    others = job.instance_count - count
    subject = f"{count} of this study" if facts.study else "including this one"
    text = (
        f"Job {short(job.job_id)} was queued with {counted(job.instance_count, 'instance')}"
        + (f" ({subject})" if others else "")
        + f": {job.name}, pipeline {job.pipeline_id}, priority {job.priority.value}."
    )
    if INTERRUPTED in job.metadata:
        text += f" Instances may be missing: {sentence(job.metadata[INTERRUPTED])}"
    fields = {
        "jobId": job.job_id,
        "name": job.name,
        "pipelineId": job.pipeline_id,
        "priority": job.priority.value,
        "instances": count,
        "others": others,
        "interrupted": job.metadata.get(INTERRUPTED, ""),
    }
    return Entry(kind="job_queued", at=job.created_at, text=text, fields=fields)


def _delivery(job: Job) -> Entry:
    source = job.metadata[SOURCE_JOB]
    of_job = f" of job {short(source)}" if source else ""
    files = [counted(job.instance_count, "result")] if job.instance_count else []
    if job.attachment_count:
        files.append(counted(job.attachment_count, "attachment"))
    text = f"Job {short(job.job_id)} was queued to deliver {listed(files)}{of_job} to {job.submitter}."
    fields = {"jobId": job.job_id, "name": job.name, "sourceJobId": source, "destination": job.submitter}
    return Entry(
        kind="delivery_queued",
        at=job.created_at,
        text=text,
        fields={**fields, "results": job.instance_count, "attachments": job.attachment_count},
    )


def _steps(job: Job, events: Sequence[Event]) -> Iterator[Entry]:
    """Yield one entry for consecutive successful steps, and one entry for consecutive failed attempts."""
    state = JobState.QUEUED
    for kind, run in groupby(events, key=_kind):
        own = list(run)
        error = own[-1].text("error")
        if kind == "steps":
            yield _progress(job, own)
        elif kind == "job_attempt_failed":
            yield _failed(job, state, own)
        elif kind == "job_faulted":
            text = f"Job {short(job.job_id)} became faulted. The last attempt to {STEPS[state]} failed"
            yield _of_job(job, "job_faulted", own, with_reason(text, error), error=error)
        elif kind in FAILURES:
            error = error or own[-1].text("reason")
            text = FAILURES[kind].format(short(job.job_id))
            yield _of_job(job, kind, own, with_reason(text, error), error=error)
        elif kind == "job_metadata_incomplete":
            yield from (_incomplete(job, event) for event in own)
        elif kind == "job_platform_state":
            yield from (_platform_state(job, event) for event in own)
        elif kind in SENTENCES:
            yield _of_job(job, kind, own, SENTENCES[kind].format(short(job.job_id)))
        for event in own:
            # The retry of a failed job is a new run, which begins at the first step.
            state = JobState.QUEUED if "run" in event.detail else AFTER.get(event.event, state)


def _kind(event: Event) -> str:
    return "steps" if event.event in DONE or event.event == "job_submitted" else event.event


def _progress(job: Job, events: Sequence[Event]) -> Entry:
    first, last = events[0].at, events[-1].at
    steps = [f"{DONE[event.event]} {clock(event.at, first)}" for event in events if event.event in DONE]
    if events[-1].event != "job_submitted":
        text = f"Job {short(job.job_id)} progressed ({listed(steps)})"
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
    errors = list(dict.fromkeys(event.text("error") for event in events))
    attempts = "an attempt" if len(events) == 1 else f"{len(events)} attempts"
    text = f"Job {short(job.job_id)}: {attempts} to {STEPS[state]} failed{until(first, last)}"
    if len(errors) > 1:
        text += f", with {len(errors)} different errors. The last error"
    text = with_reason(text, events[-1].text("error"))
    return _of_job(job, "job_attempt_failed", events, text, attempts=len(events), errors=errors)


def _incomplete(job: Job, event: Event) -> Entry:
    names, first = listed(event.names("attributes")) or "some attributes", event.text("first")
    which = f"{counted(event.number('instances'), 'instance')} (the first is {first})" if first else "some instances"
    text = f"The metadata of job {short(job.job_id)} has no value of {names} from {which}"
    return _of_job(job, event.event, [event], with_reason(text, event.text("reason")), **event.detail)


def _platform_state(job: Job, event: Event) -> Entry:
    state, message = event.text("state"), event.text("message")
    text = f"The platform reported job {short(job.job_id)} as {state or 'changed'}{f' ({message})' if message else ''}."
    return _of_job(job, event.event, [event], text, state=state, message=message)


def _of_job(job: Job, kind: str, events: Sequence[Event], text: str, **fields: object) -> Entry:
    return Entry(kind=kind, at=events[0].at, text=text, fields={"jobId": job.job_id, **fields, "until": events[-1].at})


# --- current state ----------------------------------------------------------------------------------------------------


def _commands(job: Job) -> str:
    name = short(job.job_id)
    shows_log = job.state is JobState.FAILED and not names_log(job)
    log = f" To see its log, run `dicom-adapter jobs show {name} --log`." if shows_log else ""
    return (
        f"Job {name} is {job.state.value} and keeps its instances.{log} Fix the cause, then run `dicom-adapter jobs "
        f"retry {name}`. To give up the job, run `dicom-adapter jobs cancel {name}`."
    )


def names_log(job: Job) -> bool:
    """Return whether the last error of a job already contains the command that shows its log."""
    return f"jobs show {job.job_id} --log" in job.last_error


def _reported(job: Job) -> str:
    """Return what the platform has reported about a running job."""
    if not job.platform_state:
        return ". The platform has not reported its status yet"
    message = f" ({job.platform_detail})" if job.platform_detail else ""
    return f". The platform reports it as {job.platform_state}{message}"


def _next_step(job: Job, now: datetime, uploaded: int, waits: str) -> str:
    step = "stop it on the platform" if job.cancel_requested else STEPS[job.state]
    text = f"Job {short(job.job_id)} is {job.state.value}"
    if job.cancel_requested:
        text += ". It is being cancelled"
    if uploaded:
        text += f". {uploaded} of {job.instance_count} files are uploaded"
    if is_on_platform(job):
        return f"{text}{_reported(job)}."
    if waits:
        return f"{text} and waits: {sentence(waits)}"
    if job.next_attempt_at is None:
        return f"{text}. The next step is to {step}."
    return f"{text}. The next attempt to {step} is {due(job.next_attempt_at, now)}."
