"""The list of jobs, and its filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from attrs import evolve, frozen

from dicom_adapter.api.values import INTERRUPTED, Job, JobState
from dicom_adapter.ledger import Transaction, health, jobs
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.health import PartHealth, PartState
from dicom_adapter.ledger.jobs import FINISHED, HELD, UNFINISHED, JobRow, is_on_platform
from dicom_adapter.operations.story.jobs import STEPS
from dicom_adapter.operations.waiting_jobs import why_waits

PAGE_ROWS = 50
CHOICES: Mapping[str, Sequence[JobState]] = {  # states that the filter selects, by the value in the address
    "": (),
    "unfinished": UNFINISHED,
    "held": HELD,
    **{state.value: (state,) for state in HELD},
    "finished": FINISHED,
}
CHOICE_TITLES = {
    "": "All",
    "unfinished": "Unfinished",
    "held": "Faulted or failed",
    "faulted": "Faulted",
    "failed": "Failed",
    "finished": "Finished",
}


@frozen(kw_only=True)
class JobListFilter:
    """The filter of the list, as the address has it."""

    state: str = ""  # a key of CHOICES, or a JobState
    ae_title: str = ""
    submitter: str = ""
    before: int | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> JobListFilter:
        """Return the filter of an address. Invalid values are ignored."""
        state = query.get("state", "")
        return cls(
            state=state if state in CHOICES or state in {each.value for each in JobState} else "",
            ae_title=query.get("ae-title", ""),
            submitter=query.get("submitter", ""),
            before=number_in(query.get("before", "")),
        )

    @property
    def states(self) -> Sequence[JobState]:
        """The states that are selected; none: all."""
        return CHOICES[self.state] if self.state in CHOICES else (JobState(self.state),)

    def link(self, *, state: str | None = None, before: int | None = None) -> str:
        """Return the address of the list with another state (None: the same), or of its next page."""
        other = evolve(self, state=self.state if state is None else state, before=before)
        values = {
            "state": other.state,
            "ae-title": other.ae_title,
            "submitter": other.submitter,
            "before": other.before,
        }
        query = urlencode({key: value for key, value in values.items() if value not in ("", None)})
        return f"/jobs?{query}" if query else "/jobs"


@frozen(kw_only=True)
class JobLine:
    """A job in the list."""

    job: Job
    study: str  # Study Instance UID of the first instance; "" if there is none
    problem: str
    next_step: str
    can_retry: bool
    can_cancel: bool


@frozen(kw_only=True)
class JobListContent:
    """The list of jobs."""

    filter: JobListFilter
    choices: Sequence[tuple[str, str, bool]]  # link, title, and whether it is chosen
    lines: Sequence[JobLine]
    older: str  # link to the next page; "" if there is none
    is_unfiltered: bool


def job_list(transaction: Transaction, wanted: JobListFilter, now: datetime) -> JobListContent:
    """Return a page of the list."""
    rows = jobs.newest(
        transaction,
        PAGE_ROWS + 1,
        states=wanted.states,
        filters=Filters(ae_title=wanted.ae_title or None),
        submitter=wanted.submitter or None,
        before=wanted.before,
    )
    shown = rows[:PAGE_ROWS]
    studies = jobs.first_studies(transaction, [row.number for row in shown])
    parts = health.load(transaction)
    return view_job_list(wanted, rows, studies, parts, now)


def view_job_list(
    wanted: JobListFilter,
    rows: Sequence[JobRow],
    studies: Mapping[int, str],
    parts: Mapping[str, PartHealth],
    now: datetime,
) -> JobListContent:
    """Return what the list shows. `rows`: one more than a page has, if there are more."""
    shown = rows[:PAGE_ROWS]
    titles = dict(CHOICE_TITLES)
    if wanted.state not in titles:
        titles[wanted.state] = wanted.state.capitalize()
    return JobListContent(
        filter=wanted,
        choices=[(wanted.link(state=state), title, state == wanted.state) for state, title in titles.items()],
        lines=[view_job_line(row.job, studies.get(row.number, ""), parts, now) for row in shown],
        older=wanted.link(before=shown[-1].number) if len(rows) > len(shown) else "",
        is_unfiltered=wanted == JobListFilter(),
    )


def view_job_line(job: Job, study: str, parts: Mapping[str, PartHealth], now: datetime) -> JobLine:
    """Return a job as lists and pages show it."""
    return JobLine(
        job=job,
        study=study,
        problem=problem_of(job),
        next_step=next_step_of(job, parts, now),
        can_retry=job.state in HELD or (job.next_attempt_at is not None and not job.cancel_requested),
        can_cancel=job.state not in FINISHED and not job.cancel_requested,
    )


def problem_of(job: Job) -> str:
    """Return why a job makes no progress, or why instances may be missing; "" if there is no problem."""
    if job.last_error:
        tried = f"Attempt {job.attempts} failed" if job.attempts else "Failed"
        error = job.last_error.removeprefix(f"job {job.job_id}: ")  # the page shows the job already
        return f"{tried}: {' '.join(error.split())}"
    known = job.metadata.get(INTERRUPTED, "")
    return f"Instances may be missing: {' '.join(known.split())}" if known else ""


def next_step_of(job: Job, parts: Mapping[str, PartHealth], now: datetime) -> str:
    """Return what happens next with a job; "" if nothing."""
    if job.state in HELD:
        return "Waits for an operator: retry or cancel it"
    if job.state not in UNFINISHED:
        return ""
    if is_on_platform(job):
        detail = f" ({job.platform_detail})" if job.platform_detail else ""
        reported = job.platform_state if job.platform_state != job.state.value else ""
        return f"Runs on the platform: {reported}{detail}" if reported or detail else "Runs on the platform"
    step = "cancel it on the platform" if job.cancel_requested else STEPS[job.state]
    if job.next_attempt_at is not None:
        return f"Next attempt to {step} at {job.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC"
    platform = parts.get(f"platform {job.submitter}")
    if platform is not None and platform.state in (PartState.FAILING, PartState.HANGS):
        return f"Waits for the platform of submitter {job.submitter} to {step}"
    reason = why_waits(job, parts, now)
    return f"Waits: {reason}" if reason else f"Next step: {step}"


def number_in(text: str) -> int | None:
    """Return the number of a row in an address; None if it is no such number."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None
