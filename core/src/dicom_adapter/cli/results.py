"""`dicom-adapter results`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_adapter.api.counts import counted
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
from dicom_adapter.cli.instances import AsJson
from dicom_adapter.cli.job_text import SHORT_ID, event_lines
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.cli.operator_name import operator_name
from dicom_adapter.cli.result_text import (
    attachment_lines,
    lines,
    show_lines,
)
from dicom_adapter.cli.stored_files import open_stored_files
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.cli.wrapping import wrapped
from dicom_adapter.flow.results import operators
from dicom_adapter.flow.results.deliver import ADD_SENDER
from dicom_adapter.flow.results.operators import ResultChanges
from dicom_adapter.ledger import Transaction, jobs, recorded_events
from dicom_adapter.ledger import attachments as ledger_attachments
from dicom_adapter.ledger import results as ledger_results
from dicom_adapter.ledger.filters import NO_FILTERS, Filters
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.operations.deliveries import attachment_deliveries_of, deliveries_of
from dicom_adapter.operations.documents.moments import iso
from dicom_adapter.operations.documents.results import attachment_as_json, result_as_json
from dicom_adapter.operations.export import export as export_one
from dicom_adapter.operations.export import export_attachment
from dicom_adapter.operations.interventions import requeue_results
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.resources import Resources

results = typer.Typer(
    help="List, show, export, requeue and discard results: the DICOM files that jobs have made. The service may be "
    "running or stopped.",
    no_args_is_help=True,
)

STATES = "quarantined, released, reclaimed"
# The states of results that have a stored object
STORED = (InstanceState.QUARANTINED, InstanceState.RELEASED)
LARGEST_ID = 2**63 - 1  # of a row in the ledger

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]", help="Ids of results, as `results list` shows them.")]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Only results quarantined for a reason that contains TEXT.")
]
JobOption = Annotated[str, typer.Option("--job", metavar="JOB", help="Only results of this job: its id or a prefix.")]
All = Annotated[bool, typer.Option("--all", help="All results that match the filters, instead of ids.")]
State = Annotated[
    InstanceState | None, typer.Option("--state", metavar="STATE", help=f"Only results in this state: {STATES}.")
]


@results.command("list")
@takes_filters
def list_results(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    state: State = None,
    job: JobOption = "",
    filters: Filters = NO_FILTERS,
    reason: Reason = "",
    limit: Annotated[int, typer.Option(metavar="NUMBER", min=1, max=100_000, help="Maximum number of results.")] = 50,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """List results, the newest first: their jobs, their destinations, and why they are quarantined.

    Files that are not DICOM are attachments. Without filters, their number is shown for each job; with --job, each of
    them. Exit status: 0, even if there are no results; 1 if there is no ledger.
    """
    ledger = open_ledger(find_file(file, config))
    with ledger.read() as transaction:
        source = _find_job(transaction, job)
        number = None if source is None else source.number
        rows = ledger_results.newest(transaction, limit, state=state, job_number=number, filters=filters, reason=reason)
        attachments = [] if number is None else ledger_attachments.of_job(transaction, number)
        is_filtered = source is not None or state is not None or filters != NO_FILTERS or bool(reason)
        of_jobs = [] if is_filtered else ledger_attachments.count_by_job(transaction, limit)
        delivered = deliveries_of(transaction, [row.instance.instance_id for row in rows])
        sent = {one: attachment_deliveries_of(transaction, one.instance_id) for one in attachments}
    if as_json:
        found = [result_as_json(row, delivered[row.instance.instance_id]) for row in rows]
        found += [attachment_as_json(one, job, deliveries) for one, deliveries in sent.items()]
        typer.echo(json.dumps(found, indent=2))
        return
    options = config_option(file or config)
    times = Times.chosen(utc)
    for line in lines(rows, delivered, times, options):
        typer.echo(line)
    for line in attachment_lines(of_jobs, None if source is None else source.job, sent, times, options):
        typer.echo(line)
    if not rows and not attachments and not of_jobs:
        typer.echo("\n".join(nothing_found_lines("No results", filters, options)))


@results.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="The id of the result, as `results list` shows it.")],
    config: ConfigOption = None,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """Show one result (no patient data): its job, its destinations, and its events."""
    ledger = open_ledger(find_file(config))
    with ledger.read() as transaction:
        number = _number_of_result(transaction, name, config_option(config))
        [row] = ledger_results.find(transaction, [number])
        delivered = deliveries_of(transaction, [number])[number]
        story = recorded_events.of_instance(transaction, number)
    if as_json:
        found = result_as_json(row, delivered)
        found["events"] = [{"at": iso(event.at), "event": event.event, **event.detail} for event in story]
        typer.echo(json.dumps(found, indent=2))
        return
    times = Times.chosen(utc)
    typer.echo("\n".join([*show_lines(row, delivered, times, config_option(config)), "", *event_lines(story, times)]))


@results.command()
@takes_filters
def export(
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", file_okay=False, help="The folder for the files.")],
    ids: Ids = None,
    config: ConfigOption = None,
    everything: All = False,
    state: State = None,
    job: JobOption = "",
    filters: Filters = NO_FILTERS,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Copy the files of results to FOLDER as <ID>.dcm, and verify them. The files contain patient data.

    With --all --job, the attachments of the job are copied, too, as attachment-<NUMBER> with the ending of their names.
    No file is overwritten. Exit status: 0 if all files were copied, 1 otherwise.
    """
    path = find_file(config)
    ledger, service = open_service(path)
    with ledger.read() as transaction:
        source = _find_job(transaction, job)
        numbers = _numbers(transaction, ids, config_option(config))
        chosen = _chosen(transaction, numbers, everything, (state,) if state else STORED, source, filters, reason)
        rows = ledger_results.find(transaction, chosen)
        attachments = ledger_attachments.of_job(transaction, source.number) if everything and source else []
    changes = ResultChanges(refused=dict.fromkeys(chosen, operators.UNKNOWN))
    with open_stored_files(service, to) as files:
        for row in rows:
            number = row.instance.instance_id
            is_reclaimed = row.state is InstanceState.RECLAIMED
            problem = files.copy(export_one, row.instance, is_reclaimed=is_reclaimed)
            if problem:
                changes.refused[number] = problem
            else:
                changes.done.append(number)
                del changes.refused[number]
        problems = {one.instance_id: files.copy(export_attachment, one) for one in attachments}
    copied = [number for number, problem in problems.items() if not problem]
    _report("exported", changes, as_json, {number: text for number, text in problems.items() if text}, copied)


@results.command()
@takes_filters
def requeue(
    ids: Ids = None,
    config: ConfigOption = None,
    everything: All = False,
    state: Annotated[
        InstanceState,
        typer.Option("--state", metavar="STATE", help="With --all: quarantined (the default) or released results."),
    ] = InstanceState.QUARANTINED,
    job: JobOption = "",
    filters: Filters = NO_FILTERS,
    reason: Reason = "",
    force: Annotated[
        bool,
        typer.Option("--force", help="Deliver results that fail the check, too."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check results again. Deliver those that pass to the destinations for which they have no delivery job yet.

    Without --state, --all selects quarantined results. Released results can be requeued while they are kept, for
    example because their sender was unknown. Exit status: 0 if all results were requeued, 1 otherwise.
    """
    ledger, service = open_service(find_file(config))
    settings = service.loaded.config
    assert settings is not None  # `open_service` has checked it
    with ledger.read() as transaction:
        source = _find_job(transaction, job)
        numbers = _numbers(transaction, ids, config_option(config))
        chosen = _chosen(transaction, numbers, everything, (state,), source, filters, reason)
    with open_stored_files(service) as files:
        resources = Resources(ledger=ledger, storage=files.storage, clock=SystemClock())
        changes = requeue_results(resources, settings, service.plugins, chosen, operator_name(), force=force)
    _report("requeued", changes, as_json)


@results.command()
@takes_filters
def discard(
    ids: Ids = None,
    config: ConfigOption = None,
    everything: All = False,
    job: JobOption = "",
    filters: Filters = NO_FILTERS,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Discard results permanently: their files are deleted. With --all, only quarantined results.

    Exit status: 0 if all results were discarded, 1 otherwise.
    """
    ledger = open_ledger(find_file(config))
    with ledger.read() as transaction:
        source = _find_job(transaction, job)
        numbers = _numbers(transaction, ids, config_option(config))
        chosen = _chosen(transaction, numbers, everything, (InstanceState.QUARANTINED,), source, filters, reason)
        known = ledger_results.find(transaction, chosen)
    if known and not yes:
        confirm(f"Discard {counted(len(known), 'result')} permanently?")
    _report("discarded", operators.discard(ledger, SystemClock(), chosen, operator_name()), as_json)


def _number_of_result(transaction: Transaction, name: str, options: str) -> int:
    """Return the id of a result that exists. Otherwise, end the command with the next step; `name` may be a job."""
    if name.isdecimal() and int(name) <= LARGEST_ID and ledger_results.find(transaction, [int(name)]):
        return int(name)
    may_be_job = not name.isdecimal() or len(name) >= SHORT_ID
    if may_be_job and jobs.with_prefix(transaction, name.lower(), 1):
        step = f"`dicom-adapter results list --job {name}{options}` shows the ids of its results"
        raise fail(f"'{name}' is the id of a job, not of a result: {step}")
    raise fail(f"there is no result {name}; `dicom-adapter results list{options}` shows the results with their ids")


def _numbers(transaction: Transaction, ids: list[str] | None, options: str) -> list[int]:
    """Return the ids as numbers. A number without a result is refused later; any other text ends the command."""
    return [
        int(name) if name.isdecimal() and int(name) <= LARGEST_ID else _number_of_result(transaction, name, options)
        for name in ids or []
    ]


# --- selection --------------------------------------------------------------------------------------------------------


def _find_job(transaction: Transaction, prefix: str) -> JobRow | None:
    """Return the job whose id begins with `prefix`; None if that is empty. Ends the command unless one job matches."""
    if not prefix:
        return None
    found = jobs.with_prefix(transaction, prefix.lower(), 2)
    if not found:
        raise fail(f"there is no job whose id begins with {prefix!r}; `dicom-adapter jobs list` shows the jobs")
    if len(found) > 1:
        raise fail(f"several job ids begin with {prefix!r}; enter more characters")
    return found[0]


def _chosen(
    transaction: Transaction,
    ids: list[int],
    everything: bool,
    states: tuple[InstanceState, ...],
    source: JobRow | None,
    filters: Filters,
    reason: str,
) -> list[int]:
    """Return the given ids, or the ids of the results that match the filters."""
    if everything is bool(ids):
        raise typer.BadParameter("enter either ids of results or --all")
    if ids:
        if filters != NO_FILTERS or source is not None or reason:
            raise typer.BadParameter("filters need --all")
        return list(dict.fromkeys(ids))
    number = None if source is None else source.number
    return sorted(
        row.instance.instance_id
        for state in states
        for row in ledger_results.newest(
            transaction, None, state=state, job_number=number, filters=filters, reason=reason
        )
    )


# --- output -----------------------------------------------------------------------------------------------------------


def _report(
    done: str,
    changes: ResultChanges,
    as_json: bool,
    problems: dict[int, str] | None = None,
    attachments: list[int] | None = None,
) -> None:
    """Print the outcome. Ends the command with status 1 if any result was refused."""
    if as_json:
        shown: dict[str, Any] = {done: sorted(changes.done), "refused": changes.refused}
        if done == "requeued":
            shown["jobs"] = [job.job_id for job in changes.jobs]
            shown["unknownSenders"] = sorted(changes.unknown_senders)
        if done == "exported":
            shown |= {"attachments": attachments or [], "refusedAttachments": problems or {}}
        typer.echo(json.dumps(shown, indent=2))
    else:
        for number, why in sorted(changes.refused.items()):
            warn(f"result {number} is not {done}: {why}")
        for number, why in sorted((problems or {}).items()):
            warn(f"attachment {number} is not {done}: {why}")
        text = f"{counted(len(changes.done), 'result')} {done}"
        if attachments:
            text += f", and {counted(len(attachments), 'attachment')}"
        typer.echo(text)
        if done == "requeued":
            _report_deliveries(changes)
    if changes.refused or problems:
        raise typer.Exit(1)


def _report_deliveries(changes: ResultChanges) -> None:
    for job in changes.jobs:
        typer.echo("\n".join(wrapped(f"job {job.job_id} delivers to {job.submitter}")))
    if changes.unknown_senders:
        senders = operators.listed_senders(sorted(changes.unknown_senders))
        warn(f"nothing is delivered to {senders}, because no submitter sends there; {ADD_SENDER}")
    elif changes.done and not changes.jobs:
        typer.echo("\n".join(wrapped("no destination is configured: `to` in [ae-titles.<AE title>.results]")))
