"""`dicom-adapter doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dicom_adapter.cli.configuration import ConfigOption, find_optional_file, read_text
from dicom_adapter.cli.messages import fail
from dicom_adapter.plugins.entry_points import PluginPoint, installed
from dicom_adapter.simulation.doctor.consult import SECONDS, examine
from dicom_adapter.simulation.doctor.values import Diagnosis, Trial, parse_setting


def doctor(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PLUGIN]…", help="Plugins to test. Default: all.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--setting",
            metavar="KEY=VALUE",
            help="A setting of the plugin, which replaces that of the configuration. The value is TOML or a text.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of text.")] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="SECONDS", min=1, max=3600, help="Time limit of each trial.")
    ] = SECONDS,
) -> None:
    """Test plugins, each in a separate process, with synthetic instances, a virtual clock and a platform in memory.

    Disabled plugins are tested, too. Nothing is connected to other systems.

    Exit status: 0 if everything was tried and no problem was found, 1 otherwise.
    """
    given = settings or []
    _check(given, names or [])
    path = find_optional_file(None, config)
    if path is not None:
        read_text(path)  # ends the command if the file cannot be read
    points = _chosen(names or [])
    diagnoses = []
    for point in points:
        diagnoses.append(examine(point, path, seconds, given))
        if not as_json:
            _show(diagnoses[-1])
    if as_json:
        typer.echo(json.dumps([diagnosis.to_json() for diagnosis in diagnoses], indent=2))
    if not all(diagnosis.is_ok for diagnosis in diagnoses):
        raise typer.Exit(1)


def _check(settings: list[str], names: list[str]) -> None:
    if settings and len(names) != 1:
        raise typer.BadParameter("name the one plugin that has these settings", param_hint="--setting")
    try:
        for setting in settings:
            parse_setting(setting)
    except ValueError as refusal:
        raise typer.BadParameter(str(refusal), param_hint="--setting") from None


def _chosen(names: list[str]) -> list[PluginPoint]:
    points = sorted({point.name: point for point in reversed(installed())}.values(), key=lambda point: point.name)
    known = [point.name for point in points]
    unknown = [name for name in names if name not in known]
    if unknown:
        installed_names = ", ".join(known) or "none"
        raise fail(*(f"there is no plugin '{name}' (installed: {installed_names})" for name in unknown))
    return [point for point in points if not names or point.name in names]


def _show(diagnosis: Diagnosis) -> None:
    colour, verdict = typer.colors.GREEN, "no problems"
    if diagnosis.has_problem:
        colour, verdict = typer.colors.RED, "problems found"
    elif not diagnosis.is_complete:
        colour, verdict = typer.colors.YELLOW, "not tried completely"
    typer.secho(f"{diagnosis.plugin} ({diagnosis.distribution} {diagnosis.version}): {verdict}", fg=colour)
    for trial in diagnosis.trials:
        typer.secho(f"  {trial.seconds:8.3f} s  {_line(trial)}", fg=_colour(trial))


def _colour(trial: Trial) -> str | None:
    if trial.problem:
        return typer.colors.RED
    return typer.colors.YELLOW if trial.not_tried else None


def _line(trial: Trial) -> str:
    if trial.problem:
        return f"{trial.trial}: {trial.problem}"
    return f"{trial.trial}: {trial.observed or f'not tried: {trial.not_tried}'}"
