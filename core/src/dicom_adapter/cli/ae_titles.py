"""`dicom-adapter ae-titles`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, find_file, open_ledger, open_service
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.cli.operator_name import operator_name
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.cli.wrapping import wrapped
from dicom_adapter.ledger import lanes as ledger_lanes
from dicom_adapter.ledger.held import Held, count_held
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.operations import ae_titles as operations
from dicom_adapter.operations.documents.ae_titles import lane_as_json
from dicom_adapter.runtime.clock import SystemClock

ae_titles = typer.Typer(
    help="List and restart AE titles, and end their waits. The service may be running or stopped.",
    no_args_is_help=True,
)

NOTHING_HELD = Held()


@ae_titles.command("list")
def list_ae_titles(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    utc: Utc = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of text.")] = False,
) -> None:
    """List the AE titles as last reported by the service, and why an AE title is not accepting data.

    Exit status: 0, or 1 if there is no ledger.
    """
    ledger = open_ledger(find_file(file, config))
    with ledger.read() as transaction:
        found, held = ledger_lanes.load(transaction), count_held(transaction)
    rows = [(found[name], held.get(name, NOTHING_HELD)) for name in sorted(found)]
    if as_json:
        typer.echo(json.dumps([lane_as_json(lane, count) for lane, count in rows], indent=2))
        return
    times = Times.chosen(utc)
    for lane, count in rows:
        colour = typer.colors.GREEN if lane.state is LaneState.RUNNING else typer.colors.RED
        state = typer.style(lane.state.value, fg=colour)
        typer.echo(f"{lane.ae_title}  {state} since {times.full(lane.since)}")
        typer.echo(f"    {counted(lane.groups, 'group')}, {count.pending} pending, {count.quarantined} quarantined")
        for line in wrapped(times.in_text(lane.reason or lane.full_reason)):
            typer.echo(line)
    if not rows:
        typer.echo("No AE titles: no service has used this ledger yet.")


@ae_titles.command()
def restart(
    names: Annotated[list[str], typer.Argument(metavar="AE_TITLE…", help="AE titles.")],
    config: ConfigOption = None,
) -> None:
    """Restart AE titles, stopped or running. A new processor receives all pending instances.

    The service restarts them within seconds. Exit status: 0 if all AE titles will be restarted, 1 otherwise.
    """
    path = find_file(config)
    ledger, service = open_service(path)
    assert service.loaded.config is not None  # `open_service` has checked it
    refused = False
    for ae_title in names:
        try:
            operations.restart(ledger, SystemClock(), service.loaded.config, ae_title, operator_name())
        except Refused as refusal:
            warn(str(refusal))
            refused = True
        else:
            typer.echo(f"{ae_title} will be restarted")
    if refused:
        raise typer.Exit(1)


@ae_titles.command("end-wait")
def end_wait(
    ae_title: Annotated[str, typer.Argument(metavar="AE_TITLE", help="The AE title.")],
    studies: Annotated[
        list[str], typer.Option("--study", metavar="UID", help="A Study Instance UID; may be given several times.")
    ],
    config: ConfigOption = None,
) -> None:
    """Stop waiting for missing instances of studies: their groups are submitted as they are.

    The service submits them within seconds. Exit status: 0, or 1 if one of the studies has no pending instance.
    """
    try:
        operations.end_wait(open_ledger(find_file(config)), SystemClock(), ae_title, studies, operator_name())
    except Refused as refusal:
        raise fail(str(refusal)) from None
    typer.echo(f"{ae_title} does not wait any longer for {', '.join(studies)}")
