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
from dicom_adapter.operations.installed import plugin_rows
from dicom_adapter.plugins.registry import discover


def plugins(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of text.")] = False,
) -> None:
    """List the installed plugins: processors, submitters, storage backends, notifiers and observers.

    The list includes plugins that cannot be used or are disabled.

    The configuration file is optional: it may disable plugins. Exit status: 0 if all plugins that are not disabled can
    be used, 1 otherwise.
    """
    found = discover(disable=_disabled(find_optional_file(file, config)))
    rows = plugin_rows(found)
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


def _show(rows: list[dict[str, Any]]) -> None:
    """Print a line for each row, and the problem below it. No name is cut, even in a narrow terminal."""
    for row in sorted(rows, key=lambda row: (row["kind"], row["name"], row["plugin"])):
        subject = f"{row['kind']} {row['name']}:" if row["name"] else f"{row['kind']}:"
        distribution = f"{row['distribution']} {row['version']}".strip()
        for line in wrapped(f"{subject} plugin {row['plugin']}" + (distribution and f" of {distribution}"), ""):
            typer.echo(line)
        for line in wrapped(f"disabled: {row['disabled']}" if row["disabled"] else row["problem"]):
            typer.secho(line, fg=None if row["disabled"] else typer.colors.RED)
