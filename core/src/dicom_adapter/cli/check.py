"""`dicom-adapter check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dicom_adapter.cli.configuration import FILE_ARGUMENT, Read, fail, read
from dicom_adapter.config.model import Config
from dicom_adapter.errors import describe_failure


def check(
    config: Annotated[Path, FILE_ARGUMENT],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Tell everything that can be told without starting: errors, plugins, and what each AE title will do.

    Exit status: 0 when `run --strict` would start, 1 otherwise. All errors are listed, not just the first.
    """
    found = read(config)
    problems = found.invalid + found.unavailable
    served = _served(found)
    if as_json:
        typer.echo(json.dumps({"ok": not problems, "problems": problems, "aeTitles": served}, indent=2))
    else:
        _show(served)
    if problems and as_json:
        raise typer.Exit(1)
    if problems:
        raise fail(*problems)
    if not as_json:
        typer.echo(f"{config}: no errors")


def _served(found: Read) -> list[dict[str, Any]]:
    config = found.loaded.config
    if config is None:
        return []
    return [_entry(found, config, ae_title) for ae_title in config.ae_titles]


def _entry(found: Read, config: Config, ae_title: str) -> dict[str, Any]:
    table = config.ae_titles[ae_title]
    reason = config.unavailable(ae_title)
    processor = found.plugins.catalogue().processors.get(table.processor)
    does = ""
    if processor is not None and table.settings is not None:
        try:
            does = processor.describe(table.settings)
        except (Exception, SystemExit) as failure:  # noqa: BLE001 - a plugin may raise anything, even leave
            reason = reason or f"its processor cannot describe its settings: {describe_failure(failure)}"
    return {
        "aeTitle": ae_title,
        "processor": table.processor,
        "does": does,
        "submitter": config.submitter_for(ae_title),
        "refused": reason,
    }


def _show(served: list[dict[str, Any]]) -> None:
    if not served:
        return
    table = Table("AE title", "Processor", "What it does", "Submitter")
    for entry in served:
        does = f"[red]refused: {entry['refused']}[/red]" if entry["refused"] else entry["does"]
        table.add_row(entry["aeTitle"], entry["processor"], does, entry["submitter"])
    Console().print(table)
