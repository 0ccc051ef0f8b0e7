"""`dicom-adapter jobs`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import evolve

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import Refused
from dicom_adapter.api.values import Job, JobState
from dicom_adapter.cli.configuration import (
    ConfigArgument,
    ConfigOption,
    config_option,
    find_file,
    open_ledger,
    open_service,
)
from dicom_adapter.cli.confirmation import confirm
from dicom_adapter.cli.filters import nothing_found_lines, takes_filters
from dicom_adapter.cli.job_text import SHORT_ID, JobWriter
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.cli.operator_name import operator_name
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import Ledger, Transaction, clean_ups, health, recorded_events
from dicom_adapter.ledger import jobs as ledger_jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.filters import NO_FILTERS, Filters
from dicom_adapter.ledger.jobs import HELD, UNFINISHED, JobRow, JobStudies
from dicom_adapter.operations.documents.jobs import clean_up_as_json, event_as_json, job_as_json
from dicom_adapter.runtime.clock import Clock, SystemClock

jobs = typer.Typer(
    help="List, show, watch, retry and cancel jobs. The service may be running or stopped.",
    no_args_is_help=True,
)

NO_STUDY = JobStudies(count=0, first="")
WATCH_EVERY_S = 0.5  # `watch` reads new events of the ledger at this interval
EVENTS_PER_READ = 1000  # maximum number of events that `watch` reads at once
STATES = ", ".join(state.value for state in JobState)
STATE_AFTER = {f"job_{state.value.replace('-', '_')}": state for state in JobState}  # by event name

Ids = Annotated[list[str] | None, typer.Argument(metavar="[JOB_ID]", help="Job ids, or their prefixes.")]
All = Annotated[bool, typer.Option("--all", help="All jobs that match the filters, instead of ids.")]
SubmitterName = Annotated[str | None, typer.Option("--submitter", metavar="NAME", help="Only jobs of this submitter.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Only jobs whose last error contains TEXT.")]


@jobs.command("list")
@takes_filters
def list_jobs(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    state: Annotated[
        list[JobState] | None,
        typer.Option(metavar="STATE", help=f"Only jobs in this state: {STATES}. May be repeated."),
    ] = None,
    filters: Filters = NO_FILTERS,
    submitter: SubmitterName = None,
    reason: Reason = "",
    limit: Annotated[int, typer.Option(metavar="NUMBER", min=1, max=100_000, help="Maximum number of jobs.")] = 50,
    utc: Utc = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of text.")] = False,
) -> None:
    """List jobs, the newest first, with their studies, their problems, and what happens next.

    Exit status: 0, even if there are no jobs; 1 if there is no ledger.
    """
    ledger = open_ledger(find_file(file, config))
    with ledger.read() as transaction:
        rows = ledger_jobs.newest(
            transaction, limit, states=state or (), filters=filters, submitter=submitter, error=reason
        )
        studies = ledger_jobs.studies(transaction, [row.number for row in rows])
        writer = _writer(transaction, utc, file or config)
    if as_json:
        typer.echo(json.dumps([job_as_json(row.job, studies.get(row.number)) for row in rows], indent=2))
        return
    for row in rows:
        typer.echo("\n".join(writer.block(row.job, studies.get(row.number, NO_STUDY))))
    if not rows:
        typer.echo("\n".join(nothing_found_lines("No jobs", filters, writer.options)))
    elif len(rows) == limit:
        typer.echo(f"Only the newest jobs are shown (--limit {limit}); a higher --limit shows more.", err=True)


@jobs.command()
def show(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The job id, or its prefix.")],
    config: ConfigOption = None,
    log: Annotated[bool, typer.Option("--log", help="Print the log of the job's last run on the platform.")] = False,
    lines: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, max=1_000_000, help="With --log: number of last lines.")
    ] = 100,
    utc: Utc = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show one job: its studies, its state, what happens next, and its events; or the log of its last run.

    Exit status: 0; 1 if the id matches no job or several jobs, if there is no ledger, or if the job has no log.
    """
    if log:
        _show_log(find_file(config), job_id, lines)
        return
    ledger = open_ledger(find_file(config))
    with ledger.read() as transaction:
        row = _find(transaction, job_id.lower())
        story = recorded_events.of_job(transaction, row.job.job_id)
        studies = ledger_jobs.instances_by_study(transaction, row.number)
        waiting = clean_ups.of_job(transaction, row.job.job_id)
        writer = _writer(transaction, utc, config)
    if as_json:
        of_job = JobStudies(count=len(studies), first=min(studies, default=""))
        more = {"cleanUps": list(map(clean_up_as_json, waiting)), "events": list(map(event_as_json, story))}
        typer.echo(json.dumps({**job_as_json(row.job, of_job), **more}, indent=2))
    else:
        typer.echo("\n".join(writer.details(row.job, studies, story, waiting)))


@jobs.command()
@takes_filters
def retry(
    job_ids: Ids = None,
    config: ConfigOption = None,
    everything: All = False,
    state: Annotated[
        list[JobState] | None,
        typer.Option(
            metavar="STATE", help="With --all: only jobs in this state; default: faulted, failed and postponed jobs."
        ),
    ] = None,
    filters: Filters = NO_FILTERS,
    submitter: SubmitterName = None,
    reason: Reason = "",
) -> None:
    """Retry faulted jobs from the step that failed, failed jobs from the beginning, and postponed jobs immediately.

    The service retries them within seconds.

    Example: dicom-adapter jobs retry --all --submitter platform

    Exit status: 0 if all jobs will be retried, 1 otherwise.
    """
    ledger = open_ledger(find_file(config))
    with ledger.read() as transaction:
        default = (*HELD, *UNFINISHED)
        chosen = _chosen(transaction, job_ids, everything, state or [], default, filters, submitter, reason)
    _intervene(
        ledger,
        [job for job in chosen if not everything or _can_retry(job)],
        operators.retry,
        "will be retried",
        config_option(config),
    )


@jobs.command()
@takes_filters
def cancel(
    job_ids: Ids = None,
    config: ConfigOption = None,
    everything: All = False,
    state: Annotated[
        list[JobState] | None,
        typer.Option(
            metavar="STATE", help="With --all: jobs in this state; default: faulted and failed. May be repeated."
        ),
    ] = None,
    filters: Filters = NO_FILTERS,
    submitter: SubmitterName = None,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --all: do not ask for confirmation.")] = False,
) -> None:
    """Cancel jobs, here and on the platform; their instances are reclaimed when no other job needs them.

    The service cancels them within seconds. Exit status: 0 if all jobs will be cancelled, 1 otherwise.
    """
    ledger = open_ledger(find_file(config))
    with ledger.read() as transaction:
        chosen = _chosen(transaction, job_ids, everything, state or [], HELD, filters, submitter, reason)
    if everything and chosen and not yes:
        confirm(f"Cancel {counted(len(chosen), 'job')}?")
    _intervene(ledger, chosen, operators.cancel, "will be cancelled", config_option(config))


@jobs.command()
def watch(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    limit: Annotated[
        int, typer.Option(metavar="NUMBER", min=0, max=1000, help="Number of newest jobs to show at the start.")
    ] = 10,
    utc: Utc = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each change as a line with a JSON object.")] = False,
) -> None:
    """Print the newest jobs, then a line for each new state and each new problem of a job, until Ctrl-C.

    Exit status: 0 after Ctrl-C; 1 if there is no ledger.
    """
    ledger = open_ledger(find_file(file, config))
    with ledger.read() as transaction:
        last = recorded_events.last_number(transaction)
        known = [row.job for row in reversed(ledger_jobs.newest(transaction, limit))] if limit else []
        writer = _writer(transaction, utc, file or config)

    def format_job(job: Job) -> str:
        return json.dumps(job_as_json(job)) if as_json else writer.line(job)

    for job in known:
        typer.echo(format_job(job))
    seen = {job.job_id: job for job in known}
    try:
        while True:
            last = _print_changes(ledger, last, seen, format_job)
            time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        return


def _show_log(path: Path, job_id: str, lines: int) -> None:
    from dicom_adapter.operations.job_log import last_lines  # loads the plugins

    ledger, checked = open_service(path)
    with ledger.read() as transaction:
        job = _find(transaction, job_id.lower()).job
    try:
        found = last_lines(job, checked.loaded.config, checked.plugins, lines)
    except Refused as refusal:
        raise fail(str(refusal)) from None
    typer.echo("\n".join(found))


# --- changes of jobs --------------------------------------------------------------------------------------------------


def _print_changes(ledger: Ledger, last: int, seen: dict[str, Job], format_job: Callable[[Job], str]) -> int:
    """Print the jobs that have changed after event `last`. Return the number of the newest event."""
    with ledger.read() as transaction:
        found = recorded_events.after(transaction, last, EVENTS_PER_READ)
        rows = {
            job_id: row.job
            for job_id in {event.job_id for _number, event in found if event.job_id}
            if (row := ledger_jobs.get(transaction, job_id)) is not None
        }
    for number, event in found:
        last = number
        job = rows.get(event.job_id or "")
        if job is None:
            continue
        before = seen.get(job.job_id)
        seen[job.job_id] = after = _at_event(job, event, before)
        if before is None or _visible(before) != _visible(after):
            typer.echo(format_job(after))
    return last


def _visible(job: Job) -> tuple[object, ...]:
    """Return the values of a job whose changes `watch` prints. The number of failed attempts is not included."""
    return (job.state, job.platform_state, job.platform_detail, job.last_error, job.cancel_requested)


def _at_event(job: Job, event: Event, before: Job | None) -> Job:
    """Return the job as it was at an event. Its row, `job`, may have changed since then."""
    earlier = before or evolve(job, attempts=0, platform_state="", platform_detail="", cancel_requested=False)
    values: dict[str, Any] = {"state": STATE_AFTER.get(event.event, earlier.state)}
    if event.event == "job_faulted":
        values["faulted_in"] = earlier.state
    elif event.event == "job_retried" and "run" in event.detail:
        values |= {"state": JobState.QUEUED, "run": event.detail["run"], "platform_state": "", "platform_detail": ""}
    elif event.event == "job_retried" and earlier.faulted_in is not None:
        values |= {"state": earlier.faulted_in, "faulted_in": None}
    elif event.event == "job_submitted" and job.started_at is not None and job.state is not JobState.SUBMITTED:
        values["state"] = JobState.RUNNING
    elif event.event == "job_cancel_requested":
        values["cancel_requested"] = True
    elif event.event == "job_platform_state":
        values |= {"platform_state": event.detail["state"], "platform_detail": event.detail.get("message", "")}
    error = str(event.detail.get("error", ""))
    attempts = earlier.attempts + 1 if error else 0
    values |= {"platform_job_id": job.platform_job_id, "platform_payload_id": job.platform_payload_id}
    return evolve(earlier, changed_at=event.at, last_error=error, attempts=attempts, **values)


# --- selection --------------------------------------------------------------------------------------------------------


def _chosen(
    transaction: Transaction,
    job_ids: list[str] | None,
    everything: bool,
    states: Sequence[JobState],
    default_states: Sequence[JobState],
    filters: Filters,
    submitter: str | None,
    reason: str,
) -> list[Job]:
    """Return the jobs with the given ids, or the jobs that match the filters, oldest first.

    `default_states`: used if no state is given.
    """
    if everything is bool(job_ids):
        raise typer.BadParameter("enter either job ids or --all")
    if job_ids:
        if filters != NO_FILTERS or states or submitter is not None or reason:
            raise typer.BadParameter("filters need --all")
        return [_find(transaction, job_id.lower()).job for job_id in job_ids]
    rows = ledger_jobs.newest(
        transaction, None, states=states or default_states, filters=filters, submitter=submitter, error=reason
    )
    return [row.job for row in reversed(rows)]


def _can_retry(job: Job) -> bool:
    """Return whether a job is faulted or failed, or is postponed without a request to cancel it."""
    return job.state in HELD or (job.next_attempt_at is not None and not job.cancel_requested)


def _find(transaction: Transaction, job_id: str) -> JobRow:
    found = ledger_jobs.with_prefix(transaction, job_id, 2)
    if not found:
        raise fail(f"there is no job whose id begins with {job_id!r}; `dicom-adapter jobs list` shows the jobs")
    if len(found) > 1:
        raise fail(f"several job ids begin with {job_id!r}; enter more characters")
    return found[0]


def _intervene(
    ledger: Ledger, chosen: list[Job], action: Callable[[Ledger, Clock, str, str], Job], outcome: str, options: str
) -> None:
    """Call `action` for each job. Ends the command with status 1 if `action` refuses a job.

    `options`: options to add to the commands in the text.
    """
    refused = 0
    for job in chosen:
        try:
            action(ledger, SystemClock(), job.job_id, operator_name())
        except Refused as refusal:
            warn(str(refusal))
            refused += 1
        else:
            typer.echo(f"{job.job_id[:SHORT_ID]} {job.name} {outcome}")
    if len(chosen) == 1 and not refused:
        typer.echo(f"`dicom-adapter jobs show {chosen[0].job_id[:SHORT_ID]}{options}` shows the result")
    if len(chosen) != 1:
        typer.echo(f"{counted(len(chosen) - refused, 'job')} {outcome}")
    if refused:
        raise typer.Exit(1)


# --- output -----------------------------------------------------------------------------------------------------------


def _writer(transaction: Transaction, utc: bool, named: Path | None) -> JobWriter:
    return JobWriter(
        times=Times.chosen(utc),
        now=SystemClock().now(),
        options=config_option(named),
        parts=health.load(transaction),
    )
