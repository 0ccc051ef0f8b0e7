"""The page of one job: its way step by step, its events, results, attachments and deliveries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from attrs import frozen

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.values import SOURCE_JOB, Job, JobState
from dicom_adapter.ledger import Transaction, clean_ups, health, jobs, recorded_events
from dicom_adapter.ledger import attachments as ledger_attachments
from dicom_adapter.ledger import results as ledger_results
from dicom_adapter.ledger.attachments import Attachment
from dicom_adapter.ledger.clean_ups import CleanUp
from dicom_adapter.ledger.deliveries import deliveries_of
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import FINISHED, HELD, JobRow
from dicom_adapter.ledger.results import ResultRow
from dicom_adapter.operations.story import Unknown
from dicom_adapter.web.pages.event_list import ShownEvent, view_event
from dicom_adapter.web.pages.job_list import JobLine, view_job_line

MOST_RESULTS = 100  # results, attachments and studies of a job that are shown
STEP_TITLES = {  # by the state that ends the step; a job passes through these states in this order
    JobState.QUEUED: "Queued",
    JobState.CREATED: "Created",
    JobState.METADATA_SENT: "Metadata sent",
    JobState.UPLOADED: "Uploaded",
    JobState.SUBMITTED: "Started",
    JobState.SUCCEEDED: "Succeeded",
}
ORDER = list(STEP_TITLES)
SAME_STEP = {JobState.RUNNING: JobState.SUBMITTED}


@frozen(kw_only=True)
class WayStep:
    """A step of a job's way."""

    title: str
    tone: str  # "done", "here", "bad" or ""
    at: datetime | None  # time at which the step was completed
    note: str = ""


@frozen(kw_only=True)
class JobContent:
    """The page of a job."""

    line: JobLine
    steps: Sequence[WayStep]
    studies: Mapping[str, int]  # number of instances, by Study Instance UID
    more_studies: int
    source_job: str  # of a delivery job: the job whose results it delivers
    results: Sequence[ResultRow]
    attachments: Sequence[Attachment]
    deliveries: Sequence[Job]
    clean_ups: Sequence[CleanUp]
    events: Sequence[ShownEvent]

    @property
    def watched_jobs(self) -> str:
        """The ids of the jobs whose changes change the page, separated by backslashes."""
        return "\\".join([self.line.job.job_id, *(job.job_id for job in self.deliveries)])


def job_page(transaction: Transaction, job_id: str, now: datetime) -> JobContent:
    """Return the page of a job. Raises Unknown if the ledger does not have it, and Refused if several ids match."""
    row = find_job(transaction, job_id)
    studies = jobs.instances_by_study(transaction, row.number)
    attached = ledger_attachments.of_job(transaction, row.number)
    return view_job(
        row,
        studies=studies,
        results=ledger_results.newest(transaction, MOST_RESULTS, job_number=row.number),
        attachments=attached[:MOST_RESULTS],
        deliveries=[one.job for one in deliveries_of(transaction, row.number)],
        waiting=clean_ups.of_job(transaction, row.job.job_id),
        found=recorded_events.of_job(transaction, row.job.job_id),
        line=view_job_line(row.job, "", health.load(transaction), now),
    )


def find_job(transaction: Transaction, job_id: str) -> JobRow:
    """Return the job with this id or prefix of an id. Raises Unknown or Refused."""
    found = jobs.with_prefix(transaction, job_id.lower(), 2)
    if not found:
        raise Unknown("the ledger has no job with this id; perhaps its row was deleted after history-days")
    if len(found) > 1:
        raise Refused("several job ids begin with these characters; enter more of them")
    return found[0]


def view_job(
    row: JobRow,
    *,
    line: JobLine,
    studies: Mapping[str, int],
    results: Sequence[ResultRow],
    attachments: Sequence[Attachment],
    deliveries: Sequence[Job],
    waiting: Sequence[CleanUp],
    found: Sequence[Event],
) -> JobContent:
    """Return what the page of a job shows."""
    return JobContent(
        line=line,
        steps=[*way_of(row.job, found), *_delivery_step(deliveries)],
        studies=dict(list(studies.items())[:MOST_RESULTS]),
        more_studies=max(0, len(studies) - MOST_RESULTS),
        source_job=row.job.metadata.get(SOURCE_JOB, ""),
        results=results,
        attachments=attachments,
        deliveries=deliveries,
        clean_ups=waiting,
        events=[view_event(0, event) for event in reversed(found)],
    )


def way_of(job: Job, found: Sequence[Event]) -> Iterator[WayStep]:
    """Yield the steps of a job's last run, with the times at which they were completed."""
    times = _times(job, found)
    reached = _reached(job, found)
    is_followed = job.state not in (JobState.SUBMITTED,) and job.state is not JobState.CANCELLED
    order = ORDER if is_followed or JobState.SUCCEEDED in times else ORDER[:-1]
    for number, state in enumerate(order):
        is_done, title = number <= reached, STEP_TITLES[state]
        tone = "done" if is_done else ""
        note = ""
        if number == reached + 1 and job.state in HELD:
            is_failed = job.state is JobState.FAILED
            title, tone, note = ("Failed", "bad", "") if is_failed else (title, "bad", "faulted")
        elif number == reached + 1 and job.state not in FINISHED:
            tone, note = "here", "now"
        elif number == reached + 1 and job.state is JobState.CANCELLED:
            note = "cancelled"
        yield WayStep(title=title, tone=tone, at=times.get(state) if is_done else None, note=note)


def _reached(job: Job, found: Sequence[Event]) -> int:
    """Return the index of the last step that is complete."""
    state = job.state
    if state is JobState.FAULTED and job.faulted_in is not None:
        state = job.faulted_in
    elif state is JobState.FAILED:
        state = JobState.SUBMITTED
    elif state is JobState.CANCELLED:
        states = [SAME_STEP.get(each, each) for event in found if (each := _state_after(event)) is not None]
        return max((ORDER.index(each) for each in states if each in ORDER), default=0)
    return ORDER.index(SAME_STEP.get(state, state))


def _times(job: Job, found: Sequence[Event]) -> dict[JobState, datetime]:
    times = {JobState.QUEUED: job.created_at}
    for event in found:
        if event.event == "job_retried" and "run" in event.detail:
            times = {JobState.QUEUED: event.at}
        state = _state_after(event)
        if state is not None:
            times[SAME_STEP.get(state, state)] = event.at
    return times


def _state_after(event: Event) -> JobState | None:
    name = event.event.removeprefix("job_").replace("_", "-")
    return JobState(name) if event.event.startswith("job_") and name in {state.value for state in ORDER} else None


def _delivery_step(deliveries: Sequence[Job]) -> Iterator[WayStep]:
    if not deliveries:
        return
    done = sum(job.state in FINISHED for job in deliveries)
    is_bad = any(job.state in HELD for job in deliveries)
    tone = "done" if done == len(deliveries) else "bad" if is_bad else "here"
    last = max(job.changed_at for job in deliveries)
    yield WayStep(
        title="Delivered",
        tone=tone,
        at=last if tone == "done" else None,
        note="" if tone == "done" else f"{done} of {len(deliveries)}",
    )
