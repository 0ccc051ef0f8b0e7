"""`dicom-adapter simulate`."""

from __future__ import annotations

import json
import tempfile
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import ConfigurationError, Refused
from dicom_adapter.cli.configuration import ConfigOption, find_file, open_ledger, require_valid
from dicom_adapter.cli.messages import fail, warn

EXAMPLE = "example:"
FILES_ARGUMENT = typer.Argument(
    metavar="[CONFIG] SCHEDULE",
    help="The configuration file and the schedule of arrivals (.toml or .csv); example:NAME is an included example.",
)


def simulate(
    files: Annotated[list[str], FILES_ARGUMENT],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of lines.")] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Do not simulate: write SCHEDULE (.csv) with the arrivals in the ledger.")
    ] = False,
    seconds_after: Annotated[
        float,
        typer.Option(
            "--for", metavar="SECONDS", min=0, max=366 * 86_400, help="Simulated seconds after the last arrival."
        ),
    ] = 3600.0,
) -> None:
    """Replay a schedule of arrivals through the configured processors on a simulated clock, and print the events.

    Nothing is received, stored or submitted: storage and platforms are simulated. The same input gives the same output.
    """
    if len(files) > 2:
        raise typer.BadParameter("name a configuration file and a schedule, or only a schedule")
    *configured, schedule = files
    named = _find(configured[0], ".toml") if configured else None
    path = find_file(named, config)
    if record:
        _record(path, Path(schedule))
    else:
        _simulate(path, _find(schedule, ".toml", ".csv"), timedelta(seconds=seconds_after), as_json=as_json)


def _find(given: str, *suffixes: str) -> Path:
    """Return the path of a file, or of an included example."""
    if not given.startswith(EXAMPLE):
        return Path(given)
    folder = Path(str(resources.files("dicom_adapter") / "examples"))
    found = [folder / f"{given.removeprefix(EXAMPLE)}{suffix}" for suffix in suffixes]
    if not any(path.is_file() for path in found):
        names = sorted(path.stem for path in folder.iterdir() if path.suffix in suffixes)
        raise fail(f"there is no {given}; the examples are: {', '.join(names)}")
    return next(path for path in found if path.is_file())


def _simulate(path: Path, schedule: Path, time_after: timedelta, *, as_json: bool) -> None:
    import structlog

    from dicom_adapter.simulation.rehearsal import rehearse
    from dicom_adapter.simulation.schedule import read

    config = require_valid(path)
    missing = [
        f"AE title '{name}' needs {table.unavailable}" for name, table in config.ae_titles.items() if table.unavailable
    ]
    if missing:
        raise fail(*missing)
    try:
        arrivals = read(schedule, config.ae_titles)
    except OSError as failure:
        raise fail(f"{schedule}: {failure.strerror}") from None
    except ConfigurationError as failure:
        raise fail(*failure.problems) from None
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-simulate-") as folder, structlog.testing.capture_logs():
        try:
            timeline = rehearse(config, arrivals, Path(folder), time_after)
        except Refused as refusal:
            raise fail(str(refusal)) from None
    if as_json:
        typer.echo(json.dumps(timeline.to_json(), indent=2))
    else:
        for line in timeline.lines():
            typer.echo(line)


def _record(path: Path, schedule: Path) -> None:
    from dicom_adapter.simulation.recording import record
    from dicom_adapter.simulation.schedule import to_csv

    if schedule.suffix.lower() != ".csv":
        raise fail(f"{schedule}: the name of a recorded schedule must end in .csv")
    ledger = open_ledger(path)
    recording = record(ledger)
    arrivals = recording.arrivals
    ledger.close()
    if not arrivals:
        raise fail("the ledger has no instances to record")
    try:
        with schedule.open("x", encoding="utf-8") as file:
            file.write(to_csv(arrivals))
    except FileExistsError:
        raise fail(f"{schedule}: the file already exists; name a new file") from None
    except OSError as failure:
        raise fail(f"{schedule}: {failure.strerror}") from None
    instances = counted(sum(arrival.count for arrival in arrivals), "instance")
    typer.echo(f"{schedule}: {instances} in {counted(len(arrivals), 'line')}")
    if recording.has_other_sop_classes:
        warn("some SOP classes have no synthetic instances; their arrivals are recorded as OT (secondary capture)")
