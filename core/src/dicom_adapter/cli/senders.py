"""`dicom-adapter senders`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated

import typer

from dicom_adapter.api.counts import counted
from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, config_option, find_file, open_ledger
from dicom_adapter.cli.filters import takes_some_filters
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.cli.wrapping import INDENT, with_options, wrapped
from dicom_adapter.ledger.filters import NO_FILTERS, Filters
from dicom_adapter.ledger.microseconds import EPOCH
from dicom_adapter.operations.documents.senders import sender_as_json
from dicom_adapter.operations.senders import SenderReport, describe, find_senders, name_of, next_step
from dicom_adapter.runtime.clock import SystemClock

DEEPER = 2 * INDENT
MAX_UNNAMED = 20  # maximum number of senders without a calling AE title in the text; JSON has all


@takes_some_filters("calling", "ae_title", "since", "until")
def senders(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    filters: Filters = NO_FILTERS,
    utc: Utc = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of text.")] = False,
) -> None:
    """List the senders by calling AE title: when they were seen, what they sent, and why they were rejected.

    A peer that was rejected before it requested an association is listed by its address.

    Exit status: 0, even if there are no senders; 1 if there is no ledger.
    """
    ledger = open_ledger(find_file(file, config))
    with ledger.read() as transaction:
        found = find_senders(transaction, filters, filters.since or EPOCH)
    now = SystemClock().now()
    if as_json:
        typer.echo(json.dumps([sender_as_json(one, now) for one in found], indent=2))
        return
    times = Times.chosen(utc)
    unnamed = sum(not one.calling_ae_title for one in found)
    omitted = max(unnamed - MAX_UNNAMED, 0)
    for one in found[: len(found) - omitted]:  # senders without a calling AE title are last
        typer.echo("\n".join(_lines(one, times, now, config_option(file or config))))
    if omitted:
        typer.echo(f"{omitted} more addresses; --json shows all.", err=True)
    if not found:
        typer.echo("No senders.")


def _lines(one: SenderReport, times: Times, now: datetime, options: str) -> Iterator[str]:
    yield f"{name_of(one.calling_ae_title, one.peers)}  silent for {duration(now - one.last_at)}"
    yield from wrapped(f"first seen {times.full(one.first_at)}, last {times.full(one.last_at)}")
    for sender in one.accepted:
        refused = f", {sender.refused} refused" if sender.refused else ""
        counts = f"{counted(sender.associations, 'association')}, {counted(sender.instances, 'instance')}{refused}"
        at = f" from {sender.peer_address}" if len(one.peers) > 1 else ""
        yield from wrapped(f"to {sender.ae_title}{at}: {counts}")
    for rejected in one.rejected:
        when = f"last {times.full(rejected.last_at)}"
        if rejected.count > 1:
            when = f"first {times.full(rejected.first_at)}, {when}"
        if rejected.since is None:  # an association was accepted after the last rejection
            when += "; accepted since then"
        yield from wrapped(times.in_text(f"rejected {describe(rejected)}"))
        yield from wrapped(when, DEEPER, DEEPER)
        yield from wrapped(with_options(next_step(rejected), options), DEEPER, DEEPER)


def duration(time: timedelta) -> str:
    """Return for example `3 h 12 min`, with two units at most."""
    minutes = max(int(time.total_seconds()), 0) // 60
    days, hours, minutes = minutes // 1440, minutes % 1440 // 60, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
