"""`dicom-adapter plugins`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, find_optional_file, read_text
from dicom_adapter.cli.messages import fail
from dicom_adapter.cli.wrapping import wrapped
from dicom_adapter.config import plugin_settings
from dicom_adapter.plugins.registry import Component, PluginInfo, Plugins, discover


def plugins(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of text.")] = False,
) -> None:
    """List the installed plugins: processors, submitters, storage backends and observers.

    The list includes plugins that cannot be used or are disabled.

    The configuration file is optional: it may disable plugins. Exit status: 0 if all plugins that are not disabled can
    be used, 1 otherwise.
    """
    found = discover(disable=_disabled(find_optional_file(file, config)))
    rows = _rows(found)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _show(rows)
    if found.unknown:
        raise fail(*found.unknown)
    raise typer.Exit(1 if found.problems else 0)


def _disabled(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    return plugin_settings(read_text(path)).disable


def _rows(found: Plugins) -> list[dict[str, Any]]:
    rows = [_component(component) for component in found.components]
    rows += [_observer(info) for info in found.infos if info.observes]
    rows += [_unusable(info) for info in found.infos if info.problem or info.disabled]
    listed = {row["plugin"] for row in rows}
    return rows + [_row("other", "", info, "") for info in found.infos if info.name not in listed]


def _row(kind: str, name: str, info: PluginInfo, problem: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "plugin": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "problem": problem,
        "disabled": info.disabled,
    }


def _component(component: Component) -> dict[str, Any]:
    return _row(component.kind.title, component.name, component.plugin, component.problem)


def _observer(info: PluginInfo) -> dict[str, Any]:
    return _row("observer", ", ".join(name.removeprefix("dicom_adapter_") for name in info.observes), info, "")


def _unusable(info: PluginInfo) -> dict[str, Any]:
    return _row("unknown", "", info, info.problem)


def _show(rows: list[dict[str, Any]]) -> None:
    """Print a line for each row, and the problem below it. No name is cut, even in a narrow terminal."""
    for row in sorted(rows, key=lambda row: (row["kind"], row["name"], row["plugin"])):
        subject = f"{row['kind']} {row['name']}:" if row["name"] else f"{row['kind']}:"
        distribution = f"{row['distribution']} {row['version']}".strip()
        for line in wrapped(f"{subject} plugin {row['plugin']}" + (distribution and f" of {distribution}"), ""):
            typer.echo(line)
        for line in wrapped(f"disabled: {row['disabled']}" if row["disabled"] else row["problem"]):
            typer.secho(line, fg=None if row["disabled"] else typer.colors.RED)
