"""`dicom-adapter instances`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import Permanent, StorageUnavailable
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.cli.configuration import (
    CheckedConfiguration,
    ConfigArgument,
    ConfigOption,
    config_option,
    find_file,
    open_ledger,
    open_service,
)
from dicom_adapter.cli.confirmation import confirm
from dicom_adapter.cli.filters import nothing_found_lines, takes_filters
from dicom_adapter.cli.job_text import event_lines
from dicom_adapter.cli.log_reading import read_log
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.cli.operator_name import operator_name
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.cli.wrapping import titled, wrapped
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.process import quarantine
from dicom_adapter.flow.process.quarantine import Intervention
from dicom_adapter.ledger import Transaction, instance_rows, lanes, recorded_events
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.filters import NO_FILTERS, Filters
from dicom_adapter.ledger.instance_rows import InstanceRow
from dicom_adapter.ledger.microseconds import to_datetime
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.ledger.schema import instances as instances_table
from dicom_adapter.ledger.selected_instances import jobs_with
from dicom_adapter.operations.documents.instances import (
    NOT_ENTERED,
    held_because,
    instance_as_json,
    instance_without_row_as_json,
    origin_as_json,
)
from dicom_adapter.operations.documents.jobs import event_as_json
from dicom_adapter.operations.export import export as export_one
from dicom_adapter.operations.interventions import discard_instances
from dicom_adapter.operations.look_up import selected
from dicom_adapter.operations.not_entered import without_row
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder

instances = typer.Typer(
    help="List, show, requeue, export and discard instances. The service may be running or stopped.",
    no_args_is_help=True,
)

STATES = ", ".join(state.value for state in InstanceState)
# The states of instances that have a stored object
STORED = (InstanceState.PENDING, InstanceState.QUARANTINED, InstanceState.RELEASED)

Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]", help="Instance ids.")]
All = Annotated[bool, typer.Option("--all", help="All instances that match the filters, instead of ids.")]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Only instances quarantined for a reason that contains TEXT.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@instances.command("list")
@takes_filters
def list_instances(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    state: Annotated[
        InstanceState | None, typer.Option(metavar="STATE", help=f"Only instances in this state: {STATES}.")
    ] = None,
    filters: Filters = NO_FILTERS,
    reason: Reason = "",
    limit: Annotated[int, typer.Option(metavar="NUMBER", min=1, max=100_000, help="Maximum number of instances.")] = 50,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """List instances, the newest first, and why they are held.

    Instances that are stored, not yet entered in the ledger, come first. They have no id and no state yet.

    Exit status: 0, even if there are no instances; 1 if there is no ledger.
    """
    ledger = open_ledger(find_file(file, config))
    log = [] if state is not None or reason else read_log(ledger)
    with ledger.read() as transaction:
        not_entered = selected(without_row(transaction, log), filters)[: -limit - 1 : -1]  # the newest first
        rows = instance_rows.newest(transaction, limit - len(not_entered), state=state, filters=filters, reason=reason)
        stopped = lanes.stopped(transaction)
    if as_json:
        found = [*map(instance_without_row_as_json, not_entered), *(instance_as_json(row, stopped) for row in rows)]
        typer.echo(json.dumps(found, indent=2))
        return
    times = Times.chosen(utc)
    for text in (
        *(_lines_without_row(one, times) for one in not_entered),
        *(_lines(row, stopped, times) for row in rows),
    ):
        typer.echo(text)
    options = config_option(file or config)
    studies = {row.instance.study_instance_uid for row in rows} | {one.study_instance_uid for one in not_entered}
    if not studies:
        typer.echo("\n".join(nothing_found_lines("No instances", filters, options)))
    elif len(studies) == 1:
        text = f"`dicom-adapter explain {studies.pop()}{options}` shows the story of the study."
        typer.echo("\n".join(wrapped(text, "", "")))


@instances.command()
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="The instance id.")],
    config: ConfigOption = None,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """Show one instance (no patient data), the jobs that contain it, and its events."""
    ledger = open_ledger(find_file(config))
    with ledger.read() as transaction:
        rows = instance_rows.find(transaction, [number])
        if not rows:
            raise fail(f"there is no instance {number}; `dicom-adapter instances list` shows the instances")
        found = {
            **instance_as_json(rows[0], lanes.stopped(transaction)),
            **origin_as_json(rows[0]),
            "jobs": [row.job.job_id for row, _count in jobs_with(transaction, instances_table.c.instance_id == number)],
        }
        story = recorded_events.of_instance(transaction, number)
    if as_json:
        typer.echo(json.dumps({**found, "events": [event_as_json(event) for event in story]}, indent=2))
    else:
        _show(found, story, Times.chosen(utc))


@instances.command()
@takes_filters
def requeue(
    ids: Ids = None,
    config: ConfigOption = None,
    everything: All = False,
    filters: Filters = NO_FILTERS,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Deliver quarantined instances to their processors again, in the order of their arrival.

    The service delivers them within seconds. Exit status: 0 if all instances were requeued, 1 otherwise.
    """
    ledger = open_ledger(find_file(config))
    with ledger.read() as transaction:
        chosen = _chosen(transaction, ids, everything, None, (InstanceState.QUARANTINED,), filters, reason)
    _report("requeued", quarantine.requeue(ledger, SystemClock(), chosen, operator_name()), as_json)


@instances.command()
@takes_filters
def discard(
    ids: Ids = None,
    config: ConfigOption = None,
    everything: All = False,
    state: Annotated[
        InstanceState | None,
        typer.Option(
            metavar="STATE", help="With --all: quarantined (default), or pending at AE titles that are not served."
        ),
    ] = None,
    filters: Filters = NO_FILTERS,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Discard instances permanently: their files are deleted, and no job will contain them.

    The instances must be quarantined, or pending at AE titles that are no longer configured or whose plugin is missing.

    Exit status: 0 if all instances were discarded, 1 otherwise.
    """
    path = find_file(config)
    ledger, service = open_service(path)
    settings = service.loaded.config
    assert settings is not None  # `open_service` has checked it
    with ledger.read() as transaction:
        chosen = _chosen(transaction, ids, everything, state, (InstanceState.QUARANTINED,), filters, reason)
        known = instance_rows.find(transaction, chosen)
    if known and not yes:
        confirm(f"Discard {counted(len(known), 'instance')} permanently?")
    _report("discarded", discard_instances(ledger, SystemClock(), settings, chosen, operator_name()), as_json)


@instances.command()
@takes_filters
def export(
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", file_okay=False, help="The folder for the files.")],
    ids: Ids = None,
    config: ConfigOption = None,
    everything: All = False,
    state: Annotated[
        InstanceState | None, typer.Option(metavar="STATE", help=f"With --all: only instances in this state: {STATES}.")
    ] = None,
    filters: Filters = NO_FILTERS,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Copy the stored DICOM files to FOLDER as <ID>.dcm, and verify them. The files contain patient data.

    No file is overwritten. Exit status: 0 if all files were copied, 1 otherwise.
    """
    path = find_file(config)
    ledger, service = open_service(path)
    with ledger.read() as transaction:
        chosen = _chosen(transaction, ids, everything, state, STORED, filters, reason)
        rows = instance_rows.find(transaction, chosen)
    storage = _storage(service)
    result = Intervention(refused=dict.fromkeys(chosen, "there is no such instance"))
    try:
        to.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as failure:
        raise fail(f"{to}: {failure.strerror}") from None
    console = Console(stderr=True)
    for row in track(rows, "exporting", console=console, disable=not console.is_terminal or len(rows) == 1):
        _export(storage, row, to, result)
    storage.close()
    _report("exported", result, as_json)


def _export(storage: StorageBackend[Any], row: InstanceRow, folder: Path, result: Intervention) -> None:
    number = row.instance.instance_id
    try:
        export_one(storage, row.instance, folder)
    except FileExistsError:
        result.refused[number] = f"{folder / f'{number}.dcm'} already exists"
    except Permanent as failure:
        is_reclaimed = row.state is InstanceState.RECLAIMED
        result.refused[number] = "it is reclaimed: its file was deleted" if is_reclaimed else str(failure)
    except OSError as failure:
        result.refused[number] = f"it could not be copied: {failure.strerror}"
    else:
        result.done.append(number)
        del result.refused[number]


# --- selection --------------------------------------------------------------------------------------------------------


def _chosen(
    transaction: Transaction,
    ids: list[int] | None,
    everything: bool,
    state: InstanceState | None,
    default_states: Iterable[InstanceState],
    filters: Filters,
    reason: str,
) -> list[int]:
    """Return the given ids, or the ids of the instances that match the filters.

    `default_states`: used if no state is given.
    """
    if everything is bool(ids):
        raise typer.BadParameter("enter either instance ids or --all")
    if ids:
        if filters != NO_FILTERS or state is not None or reason:
            raise typer.BadParameter("filters need --all")
        return list(dict.fromkeys(ids))
    return sorted(
        row.instance.instance_id
        for one_state in (default_states if state is None else (state,))
        for row in instance_rows.newest(transaction, None, state=one_state, filters=filters, reason=reason)
    )


def _storage(service: CheckedConfiguration) -> StorageBackend[Any]:
    config = service.loaded.config
    assert config is not None  # `open_service` has checked it
    folder = DataFolder.of(config)
    try:
        folder.require_there()
    except (StorageUnavailable, OSError) as failure:
        raise fail(str(failure)) from None
    return folder.open_storage(config.storage, service.plugins.catalogue())


# --- output -----------------------------------------------------------------------------------------------------------


def _report(done: str, result: Intervention, as_json: bool) -> None:
    """Print the result. Ends the command with status 1 if any instance was refused."""
    if as_json:
        typer.echo(json.dumps({done: sorted(result.done), "refused": result.refused}, indent=2))
    else:
        for number, why in sorted(result.refused.items()):
            warn(f"instance {number} is not {done}: {why}")
        typer.echo(f"{counted(len(result.done), 'instance')} {done}")
    if result.refused:
        raise typer.Exit(1)


def _lines(row: InstanceRow, stopped: Mapping[str, str], times: Times) -> str:
    instance = row.instance
    lines = [
        f"{instance.instance_id}  {instance.ae_title}  {row.state.value} since {times.full(row.changed_at)}",
        f"    study {instance.study_instance_uid}",
        f"    instance {instance.sop_instance_uid}",
    ]
    note = row.reason or held_because(row, stopped) or row.outcome
    return "\n".join([*lines, *wrapped(times.in_text(note))])


def _lines_without_row(instance: ReceivedInstance, times: Times) -> str:
    lines = [
        f"-  {instance.ae_title}  stored at {times.full(to_datetime(instance.columns['received_at']))}, {NOT_ENTERED}",
        f"    study {instance.study_instance_uid}",
        f"    instance {instance.sop_instance_uid}",
    ]
    return "\n".join(lines)


def _show(found: Mapping[str, Any], story: list[Event], times: Times) -> None:
    for title, value in found.items():
        for number, each in enumerate(value if isinstance(value, list) else [value]):
            text = times.full(datetime.fromisoformat(each)) if title in ("since", "receivedAt") else str(each or "")
            typer.echo("\n".join(titled("" if number else title, text)))
    typer.echo()
    typer.echo("\n".join(event_lines(story, times)))
