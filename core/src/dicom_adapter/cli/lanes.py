"""`dicom-adapter lanes`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_adapter.cli.configuration import DEFAULT_FILE, FILE_OPTION, open_ledger, require, warn
from dicom_adapter.config.model import Config
from dicom_adapter.ledger import instances
from dicom_adapter.ledger import lanes as ledger_lanes
from dicom_adapter.ledger.instances import Held
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState

lanes = typer.Typer(
    help="List the lanes of AE titles, and have them begin again, through the ledger; the service may run or not.",
    no_args_is_help=True,
)

NOTHING = Held()


@lanes.command("list")
def list_lanes(
    config: Annotated[Path, FILE_OPTION] = DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the lanes as the service described them last, and why those that take nothing do not.

    Exit status: 0, or 1 when there is no ledger to look into.
    """
    ledger = open_ledger(config)
    with ledger.read() as transaction:
        found, held = ledger_lanes.load(transaction), instances.held(transaction)
    rows = [(found[name], held.get(name, NOTHING)) for name in sorted(found)]
    if as_json:
        typer.echo(json.dumps([_as_json(lane, count) for lane, count in rows], indent=2))
        return
    table = Table("AE title", "State", "Since (UTC)", "Groups", "Pending", "Quarant.", "Note")
    for lane, count in rows:
        counts = map(str, (lane.groups, count.pending, count.quarantined))
        note = escape(lane.reason or lane.full)
        table.add_row(escape(lane.ae_title), _coloured(lane.state), f"{lane.since:%m-%d %H:%M:%S}", *counts, note)
    Console().print(table)


@lanes.command()
def restart(
    ae_titles: Annotated[list[str], typer.Argument(help="AE titles.")],
    config: Annotated[Path, FILE_OPTION] = DEFAULT_FILE,
) -> None:
    """Have lanes begin again, stopped or not: with a new processor, and everything that is pending.

    The service notices within seconds. Exit status: 0 when it will do so for all, 1 otherwise.
    """
    ledger, settings = open_ledger(config), require(config)
    refused = False
    for ae_title in ae_titles:
        with ledger.write() as transaction:
            refusal = _why_not(ae_title, settings, ae_title in ledger_lanes.load(transaction))
            if not refusal:
                ledger_lanes.begin_again(transaction, ae_title)
        if refusal:
            warn(f"AE title '{ae_title}' {refusal}")
            refused = True
        else:
            typer.echo(f"{ae_title} will begin again")
    if refused:
        raise typer.Exit(1)


def _why_not(ae_title: str, config: Config, is_known: bool) -> str:
    if ae_title not in config.ae_titles:
        return "is not configured"
    unavailable = config.unavailable(ae_title)
    if unavailable:
        return f"is not served: {unavailable}; mend that, then start the service anew"
    return "" if is_known else "has no lane yet: it gets one when this configuration is applied: `dicom-adapter reload`"


def _coloured(state: LaneState) -> str:
    colour = "green" if state is LaneState.RUNNING else "red"
    return f"[{colour}]{state.value}[/{colour}]"


def _as_json(lane: LaneReport, held: Held) -> dict[str, Any]:
    return {
        "aeTitle": lane.ae_title,
        "state": lane.state.value,
        "since": lane.since.isoformat(timespec="milliseconds"),
        "reason": lane.reason,
        "full": lane.full,
        "groups": lane.groups,
        "pending": held.pending,
        "quarantined": held.quarantined,
        "restarts": lane.restarts,
    }
