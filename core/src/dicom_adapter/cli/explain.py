"""`dicom-adapter explain`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Annotated

import typer

from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.configuration import ConfigOption, config_option, find_file, open_ledger
from dicom_adapter.cli.filters import takes_filters
from dicom_adapter.cli.log_reading import read_log
from dicom_adapter.cli.messages import fail
from dicom_adapter.cli.study_text import (
    match_lines,
    not_received_lines,
    patient_lines,
)
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.cli.wrapping import with_options, wrapped
from dicom_adapter.config.model import LedgerConfig
from dicom_adapter.ledger import Ledger, configurations
from dicom_adapter.ledger.filters import NO_FILTERS, Filters
from dicom_adapter.ledger.series import ArrivedSeries
from dicom_adapter.operations.documents.stories import story_as_json
from dicom_adapter.operations.documents.studies import matches_as_json, not_received_as_json, patient_as_json
from dicom_adapter.operations.look_up import Matches, find_not_received, match_filters, match_value
from dicom_adapter.operations.not_entered import series_of, without_row
from dicom_adapter.operations.story import Entry, Story, Unknown, make_story, times_in
from dicom_adapter.runtime.clock import SystemClock

NOW = "now"
MARGIN = 12  # width of the left column of times


@takes_filters
def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="VALUE",
            help="A Study, Series or SOP Instance UID, a job id or its prefix, an Accession Number, or a Patient ID.",
        ),
    ] = None,
    config: ConfigOption = None,
    filters: Filters = NO_FILTERS,
    show_patient: Annotated[
        bool, typer.Option("--show-patient", help="Show Patient ID, Accession Number, dates and descriptions.")
    ] = False,
    utc: Utc = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of sentences.")] = False,
) -> None:
    """Show the story of a study, series, SOP instance or job: its events from association to reclaim.

    If several studies match, they are listed. If none matches, the command shows what was rejected and refused in the
    time from --since to --until (default: the last 24 hours), from the sender in --calling.

    Exit status: 0, or 1 if the ledger has nothing that matches.
    """
    if (name is None) is (filters == NO_FILTERS) or not (name is None or name.strip()):
        raise typer.BadParameter("enter either a UID, job id, Accession Number or Patient ID, or filters")
    path = find_file(config)
    ledger = open_ledger(path)
    options = config_option(config)
    times = Times.chosen(utc or as_json)
    now = SystemClock().now()
    try:
        with times_in(times.zone):
            found, story, series = _look_up(ledger, filters if name is None else name.strip(), now)
    except Unknown as refusal:
        raise _not_found(ledger, refusal, filters, now, times, options, as_json=as_json) from None
    except Refused as refusal:
        raise fail(str(refusal)) from None
    if story is None:
        if as_json:
            typer.echo(json.dumps(matches_as_json(found, shows_patient=show_patient), indent=2))
        else:
            typer.echo("\n".join(match_lines(found, times, options, shows_patient=show_patient)))
    elif as_json:
        patient = {"patient": patient_as_json(series)} if show_patient else {}
        typer.echo(json.dumps({**story_as_json(story), **patient}, indent=2))
    else:
        for line in story_lines(story, times, list(patient_lines(series)) if show_patient else [], options):
            typer.echo(line)


def _look_up(ledger: Ledger, wanted: str | Filters, now: datetime) -> tuple[Matches, Story | None, list[ArrivedSeries]]:
    """Return the matches; for one match, also its story and the series of its studies. Raises Refused."""
    log = read_log(ledger)  # first: an instance that is entered in between is then found in the ledger
    with ledger.read() as transaction:
        not_entered = without_row(transaction, log)
        if isinstance(wanted, str):
            found = match_value(transaction, wanted, not_entered)
        else:
            found = match_filters(transaction, wanted, not_entered)
        if not found.subject:
            return found, None, []
        story = make_story(transaction, found.subject, now, not_entered)
        return found, story, series_of(transaction, story.studies, not_entered)


def _not_found(
    ledger: Ledger, refusal: Unknown, filters: Filters, now: datetime, times: Times, options: str, *, as_json: bool
) -> typer.Exit:
    """Print what was rejected and refused, because nothing matches. Return the exception to raise."""
    with ledger.read() as transaction:
        not_received = find_not_received(transaction, filters, now)
    error = fail(str(refusal))
    if as_json:
        typer.echo(json.dumps(not_received_as_json(not_received), indent=2))
    else:
        typer.echo("\n".join(wrapped(_possible_reasons(ledger), "", "")))
        typer.echo("\n".join(not_received_lines(not_received, times, filters.calling_ae_title, options)))
    return error


def _possible_reasons(ledger: Ledger) -> str:
    with ledger.read() as transaction:
        running = configurations.running(transaction)
    days = LedgerConfig().history_days if running is None else float(running.settings["service"]["ledger.history-days"])
    return (
        "Possible reasons: it never arrived; all of it was rejected or refused; it was finished more than "
        f"history-days = {days:g} days ago, and its rows were deleted."
    )


# --- text -------------------------------------------------------------------------------------------------------------


def story_lines(story: Story, times: Times, patient: Sequence[str] = (), options: str = "") -> Iterator[str]:
    """Yield the lines of a story: a section of entries for each AE title.

    Each new day, and each change of the time zone, begins with a separate line. `patient`: lines with patient data.
    `options`: options to add to the commands in the text.
    """
    zone = times.zone_at(story.created_at)
    yield from wrapped(f"{story.title}. Times are {zone}.", "", "")
    for line in patient:
        yield from wrapped(line, "", "")
    for section in story.sections:
        yield ""
        yield typer.style(f"AE title {section.ae_title}", bold=True)
        yield from _entry_lines(section.entries, times, zone, options)


def _entry_lines(entries: Sequence[Entry], times: Times, zone: str, options: str) -> Iterator[str]:
    day: tuple[date, str] | None = None
    for entry in entries:
        if entry.at is not None and times.day(entry.at) != day:
            day = times.day(entry.at)
            yield f"{day[0].isoformat():{MARGIN}}{'' if day[1] == zone else day[1]}".rstrip()
        when = NOW if entry.at is None else times.clock(entry.at)
        text = with_options(times.in_text(entry.text), options)
        yield from wrapped(text, f"{when:{MARGIN}}", " " * MARGIN)
