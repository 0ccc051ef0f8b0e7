"""`dicom-adapter jobs`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import frozen
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.values import Job, JobState
from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, find_file, open_ledger
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import Ledger, Transaction, events
from dicom_adapter.ledger import jobs as ledger_jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.runtime.clock import Clock, SystemClock

jobs = typer.Typer(
    help="List, show, watch, retry and cancel jobs. The service may be running or stopped.",
    no_args_is_help=True,
)

SHORT_ID = 8  # number of characters of a job id in tables; commands accept such a prefix
WATCHED = 1000  # number of newest jobs that `watch` follows
WATCH_EVERY_S = 0.5
PIPELINE_WIDTH = 9  # number of characters of a pipeline id in tables; `show` prints the whole id
STATE_WIDTH = max(len(state.value) for state in JobState)
COLOURS = {JobState.SUBMITTED: "green", JobState.FAULTED: "red", JobState.CANCELLED: "dim"}


@jobs.command("list")
def list_jobs(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    ae_title: Annotated[str | None, typer.Option(help="Only jobs of this AE title.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of jobs.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List jobs, the newest first.

    Exit status: 0, even if there are no jobs; 1 if there is no ledger.
    """
    ledger = open_ledger(find_file(file, config))
    with ledger.read() as transaction:
        rows = ledger_jobs.newest(transaction, limit, states=state or (), ae_title=ae_title)
    found = [row.job for row in rows]
    if as_json:
        typer.echo(json.dumps([_as_json(job) for job in found], indent=2))
    elif not found:
        typer.echo("No jobs.")
    else:
        Console(highlight=False).print(JobTable(found))


@jobs.command()
def show(
    job_id: Annotated[str, typer.Argument(help="The job id, or its prefix.")],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show one job and its events."""
    ledger = open_ledger(find_file(config))
    with ledger.read() as transaction:
        job = _find(transaction, job_id.lower())
        story = events.of_job(transaction, job.job_id)
    if as_json:
        typer.echo(json.dumps({**_as_json(job), "events": [_event_as_json(event) for event in story]}, indent=2))
    else:
        _show(job, story)


@jobs.command()
def retry(
    job_ids: Annotated[list[str], typer.Argument(help="Job ids, or their prefixes.")],
    config: ConfigOption = None,
) -> None:
    """Retry faulted jobs from the step that failed, and postponed jobs immediately.

    The service retries them within seconds. Exit status: 0 if all jobs will be retried, 1 otherwise.
    """
    _intervene(find_file(config), job_ids, operators.retry, "will be retried")


@jobs.command()
def cancel(
    job_ids: Annotated[list[str], typer.Argument(help="Job ids, or their prefixes.")],
    config: ConfigOption = None,
) -> None:
    """Cancel jobs, here and on the platform; their instances are reclaimed when no other job needs them.

    The service cancels them within seconds. Exit status: 0 if all jobs will be cancelled, 1 otherwise.
    """
    _intervene(find_file(config), job_ids, operators.cancel, "will be cancelled")


@jobs.command()
def watch(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of newest jobs to show at the start.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print each change as a line with a JSON object.")] = False,
) -> None:
    """Print a line whenever a job changes, until Ctrl-C.

    Exit status: 0 after Ctrl-C; 1 if there is no ledger.
    """
    ledger = open_ledger(find_file(file, config))
    seen: dict[str, Job] = {}
    try:
        while True:
            with ledger.read() as transaction:
                found = [row.job for row in reversed(ledger_jobs.newest(transaction, WATCHED))]
            changed = [job for job in found if seen.get(job.job_id) != job]
            for job in changed if seen else changed[-limit:]:
                typer.echo(json.dumps(_as_json(job)) if as_json else _line(job))
            seen.update((job.job_id, job) for job in found)
            time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        return


def _line(job: Job) -> str:
    when = f"{job.changed_at:%H:%M:%S}"
    state = f"{job.state.value} ({job.platform_state})" if job.platform_state else job.state.value
    return f"{when}  {job.job_id[:SHORT_ID]}  {job.name}  {state}  {_note(job)}".rstrip()


def _intervene(path: Path, job_ids: list[str], action: Callable[[Ledger, Clock, str], Job], outcome: str) -> None:
    ledger = open_ledger(path)
    refused = False
    for job_id in job_ids:
        with ledger.read() as transaction:
            job = _find(transaction, job_id.lower())
        try:
            action(ledger, SystemClock(), job.job_id)
        except Refused as refusal:
            warn(str(refusal))
            refused = True
        else:
            typer.echo(f"{job.job_id[:SHORT_ID]} {job.name} {outcome}")
    if refused:
        raise typer.Exit(1)


@frozen
class JobTable:
    """A table with a line for each job, and a second line if the job has a problem. The table fits in 80 columns.

    Names that are too long are cut; `show` prints them in full.
    """

    jobs: Sequence[Job]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        space = options.max_width - len(_row(("", "", "", "", "", ""), 0)) - STATE_WIDTH
        width = max(len("Name"), min(space, max((len(job.name) for job in self.jobs), default=0)))
        yield Text(_row(("Job", "Name", "Pipeline", "Priority", "Inst.", "State"), width), "bold", no_wrap=True)
        for job in self.jobs:
            cells = (job.job_id[:SHORT_ID], job.name, job.pipeline_id, job.priority.value, str(job.instance_count))
            yield Text.assemble(_row((*cells, ""), width), (job.state.value, COLOURS.get(job.state, "yellow")))
            note = " ".join(_note(job).split())
            if note:
                yield Text(f"{'':{SHORT_ID}}  {note}", no_wrap=True, overflow="ellipsis")


def _row(cells: tuple[str, str, str, str, str, str], name_width: int) -> str:
    job, name, pipeline, priority, instances, state = cells
    name, pipeline = _cut(name, name_width), _cut(pipeline, PIPELINE_WIDTH)
    return f"{job:{SHORT_ID}}  {name}  {pipeline}  {priority:9}  {instances:>5}  {state}"


def _cut(cell: str, width: int) -> str:
    return (cell if len(cell) <= width else f"{cell[: width - 1]}…").ljust(width)


def _note(job: Job) -> str:
    """Return the problem of a job that makes no progress; "" if the job has no problem."""
    if job.cancel_requested and job.state is not JobState.FAULTED:
        return "is being cancelled"
    if not job.last_error:
        return ""
    tried = f"attempt {job.attempts} failed" if job.attempts else "failed"
    next_attempt = f", next at {job.next_attempt_at:%H:%M:%S} UTC" if job.next_attempt_at else ""
    return f"{tried}{next_attempt}: {job.last_error}"


def _find(transaction: Transaction, job_id: str) -> Job:
    found = ledger_jobs.with_prefix(transaction, job_id, 2)
    if not found:
        raise fail(f"there is no job whose id begins with {job_id!r}; `dicom-adapter jobs list` shows them")
    if len(found) > 1:
        raise fail(f"several job ids begin with {job_id!r}; enter more characters")
    return found[0].job


def _show(job: Job, story: list[Event]) -> None:
    console = Console()
    for title, value in _as_json(job).items():
        if value not in (None, "", {}):
            console.print(f"[bold]{title:18}[/bold] {escape(str(value))}")
    table = Table("When (UTC)", "Event", Column("Detail", overflow="fold"))
    shown = {job.last_error}
    for event in story:
        error = str(event.detail.get("error", ""))
        detail = {**event.detail, "error": "as above"} if error and error in shown else event.detail
        shown.add(error)
        table.add_row(f"{event.at:%Y-%m-%d %H:%M:%S}", event.event, escape(_detail(detail)))
    console.print(table)


def _detail(detail: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in detail.items())


def _as_json(job: Job) -> dict[str, Any]:
    """Return a job as JSON values, without its metadata, which may contain patient data."""
    return {
        "jobId": job.job_id,
        "name": job.name,
        "aeTitle": job.ae_title,
        "pipelineId": job.pipeline_id,
        "priority": job.priority.value,
        "submitter": job.submitter,
        "state": job.state.value,
        "instances": job.instance_count,
        "createdAt": _time(job.created_at),
        "changedAt": _time(job.changed_at),
        "attempts": job.attempts,
        "nextAttemptAt": _time(job.next_attempt_at),
        "lastError": job.last_error,
        "platformJobId": job.platform_job_id,
        "platformPayloadId": job.platform_payload_id,
        "platformState": job.platform_state,
        "platformDetail": job.platform_detail,
        "cancelRequested": job.cancel_requested,
    }


def _event_as_json(event: Event) -> dict[str, Any]:
    return {"at": _time(event.at), "event": event.event, **event.detail}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
