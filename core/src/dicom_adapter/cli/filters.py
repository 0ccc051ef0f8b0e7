"""The filter options of all commands that look for instances, jobs, studies and senders."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, TypeAlias

import typer

from dicom_adapter.cli.wrapping import wrapped
from dicom_adapter.ledger.filters import Filters

OFFSET = re.compile(r" ([+-]\d\d:\d\d)$")  # offset from UTC at the end of a time, as commands print it
Command: TypeAlias = Callable[..., None]

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
TIME_HELP = "a time such as 2026-01-05, '2026-01-05 08:00' or 08:00 (local time), or how long ago: 90m, 12h, 7d"

OPTIONS: dict[str, Any] = {
    "study": Annotated[str | None, typer.Option("--study", metavar="UID", help="Only this Study Instance UID.")],
    "series": Annotated[str | None, typer.Option("--series", metavar="UID", help="Only this Series Instance UID.")],
    "sop": Annotated[str | None, typer.Option("--sop", metavar="UID", help="Only this SOP Instance UID.")],
    "accession": Annotated[
        str | None, typer.Option("--accession", metavar="NUMBER", help="Only studies with this Accession Number.")
    ],
    "patient": Annotated[str | None, typer.Option("--patient", metavar="ID", help="Only this Patient ID.")],
    "calling": Annotated[str | None, typer.Option("--calling", metavar="AET", help="Only from this calling AE title.")],
    "ae_title": Annotated[
        str | None, typer.Option("--ae-title", metavar="AET", help="Only at this (called) AE title.")
    ],
    "since": Annotated[
        str | None, typer.Option("--since", metavar="TIME", help=f"Only from this time on: {TIME_HELP}.")
    ],
    "until": Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", help="Only before this time; a date includes the whole day."),
    ],
}


# The filters that name a study or its sender, with their options.
EXPLAIN_OPTIONS = {
    "study_instance_uid": "--study",
    "series_instance_uid": "--series",
    "sop_instance_uid": "--sop",
    "accession_number": "--accession",
    "patient_id": "--patient",
    "calling_ae_title": "--calling",
}


def nothing_found_lines(text: str, filters: Filters, options: str) -> list[str]:
    """Return the text for no results. If the filters name a study or its sender, add the command that shows why."""
    names = {option: getattr(filters, name) for name, option in EXPLAIN_OPTIONS.items()}
    given = " ".join(f"{option} {shlex.quote(value)}" for option, value in names.items() if value is not None)
    return wrapped(f"{text}. `dicom-adapter explain {given}{options}` shows why." if given else f"{text}.", "", "")


def takes_filters(command: Command) -> Command:
    """Replace the parameter `filters` of a command by all options in OPTIONS."""
    return takes_some_filters(*OPTIONS)(command)


def takes_some_filters(*names: str) -> Callable[[Command], Command]:
    """Replace the parameter `filters` of a command by these options."""

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)

        def call(**values: Any) -> None:
            others = {name: value for name, value in values.items() if name not in OPTIONS}
            command(**others, filters=_filters({name: values.get(name) for name in OPTIONS}))

        parameters = []
        for parameter in signature.parameters.values():
            if parameter.name != "filters":
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            else:
                parameters += [_option(name) for name in names]
        call.__name__, call.__doc__, call.__module__ = command.__name__, command.__doc__, command.__module__
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # typer reads it
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def _option(name: str) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=OPTIONS[name])


def _filters(values: dict[str, Any]) -> Filters:
    now = datetime.now(timezone.utc)
    since = _time("--since", values["since"], now, end_of_day=False)
    until = _time("--until", values["until"], now, end_of_day=True)
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter("--since must be before --until")
    return Filters(
        study_instance_uid=values["study"],
        series_instance_uid=values["series"],
        sop_instance_uid=values["sop"],
        accession_number=values["accession"],
        patient_id=values["patient"],
        calling_ae_title=values["calling"],
        ae_title=values["ae_title"],
        since=since,
        until=until,
    )


def _time(option: str, text: str | None, now: datetime, *, end_of_day: bool) -> datetime | None:
    """Return the time that an option names. `end_of_day`: for a date, return its end instead of its start."""
    if text is None:
        return None
    try:
        ago = re.fullmatch(r"(\d{1,6})([mhd])", text)
        if ago is not None:
            return now - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text):
            text = f"{now.astimezone():%Y-%m-%d} {text if text[1] != ':' else f'0{text}'}"
        found = datetime.fromisoformat(OFFSET.sub(r"\1", re.sub(r"Z$| UTC$", "+00:00", text)))
        if end_of_day and "T" not in text and ":" not in text:
            found += timedelta(days=1)
        return found.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not {TIME_HELP}", param_hint=option) from None
