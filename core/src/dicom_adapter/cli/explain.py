"""`dicom-adapter explain`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any

import typer
from attrs import asdict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.configuration import ConfigOption, find_file, open_ledger
from dicom_adapter.cli.messages import fail
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.config.model import LedgerConfig
from dicom_adapter.ledger import Ledger, configurations
from dicom_adapter.operations.story import Entry, Story, Unknown, make_story, times_in
from dicom_adapter.runtime.clock import SystemClock

NOW = "now"


def explain(
    name: Annotated[
        str, typer.Argument(metavar="UID|JOB", help="A Study or SOP Instance UID, or the prefix of a job id.")
    ],
    config: ConfigOption = None,
    utc: Utc = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of sentences.")] = False,
) -> None:
    """Show the story of a study, SOP instance or job: its events from association to reclaim.

    Exit status: 0, or 1 if the ledger does not have this study, SOP instance or job.
    """
    path = find_file(config)
    ledger = open_ledger(path)
    times = Times.chosen(utc or as_json)
    try:
        with ledger.read() as transaction, times_in(times.zone):
            story = make_story(transaction, name.strip(), SystemClock().now())
    except Unknown as refusal:
        raise fail(f"{refusal}{_possible_reasons(ledger)}") from None
    except Refused as refusal:
        raise fail(str(refusal)) from None
    if as_json:
        typer.echo(json.dumps(_as_json(story), indent=2))
    else:
        show(story, Console(highlight=False), times)


def _possible_reasons(ledger: Ledger) -> str:
    with ledger.read() as transaction:
        running = configurations.running(transaction)
    days = LedgerConfig().history_days if running is None else float(running.settings["service"]["ledger.history-days"])
    return (
        ". Possible reasons: it never arrived; all of it was refused (association_rejected or "
        f"instance_refused in the log of the receiver); or it was finished more than history-days = {days:g} days ago, "
        "and its rows were deleted"
    )


# --- text -------------------------------------------------------------------------------------------------------------


def show(story: Story, console: Console, times: Times) -> None:
    """Print a story: a table for each AE title, with a line for each new day and for each change of the zone."""
    console.print(Text.assemble((story.title, "bold"), f". Times are {times.zone_at(story.created_at)}."))
    for section in story.sections:
        console.print(Text(f"\nAE title {section.ae_title}", "bold"))
        console.print(_table(section.entries, times, times.zone_at(story.created_at)))


def _table(entries: Sequence[Entry], times: Times, zone: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    day: tuple[date, str] | None = None
    for entry in entries:
        if entry.at is not None and times.day(entry.at) != day:
            day = times.day(entry.at)
            table.add_row(Text(day[0].isoformat(), "dim"), Text("" if day[1] == zone else day[1], "dim"))
        table.add_row(NOW if entry.at is None else times.clock(entry.at), Text(times.in_text(entry.text)))
    return table


# --- JSON -------------------------------------------------------------------------------------------------------------


def _as_json(story: Story) -> dict[str, Any]:
    sections = [
        {"aeTitle": section.ae_title, "entries": [_plain(asdict(entry)) for entry in section.entries]}
        for section in story.sections
    ]
    return {
        "kind": story.kind,
        "name": story.name,
        "title": story.title,
        "createdAt": _plain(story.created_at),
        "sections": sections,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
