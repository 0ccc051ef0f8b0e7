"""`dicom-adapter plugins`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_adapter.plugins import Component, PluginInfo, discover


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List what is installed: processors, submitters, storage backends, observers; and what cannot be used, and why.

    Exit status: 0 when everything can be used, 1 otherwise.
    """
    found = discover()
    rows = [_component(component) for component in found.components]
    rows += [_observer(info) for info in found.infos if info.observes]
    rows += [_broken(info) for info in found.infos if info.problem]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _show(rows)
    raise typer.Exit(1 if found.problems else 0)


def _row(kind: str, name: str, info: PluginInfo, problem: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "plugin": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "problem": problem,
    }


def _component(component: Component) -> dict[str, Any]:
    return _row(component.kind.title, component.name, component.plugin, component.problem)


def _observer(info: PluginInfo) -> dict[str, Any]:
    return _row("observer", ", ".join(name.removeprefix("dicom_adapter_") for name in info.observes), info, "")


def _broken(info: PluginInfo) -> dict[str, Any]:
    return _row("unknown", "", info, info.problem)


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("Kind", "Name", "Distribution", "Version", "Problem")
    for row in sorted(rows, key=lambda row: (row["kind"], row["name"])):
        problem = f"[red]{escape(row['problem'])}[/red]"
        table.add_row(row["kind"], row["name"], row["distribution"], row["version"], problem)
    Console().print(table)
