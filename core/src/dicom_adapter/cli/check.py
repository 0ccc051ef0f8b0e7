"""`dicom-adapter check`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from attrs import field, frozen
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, Read, find_file, read
from dicom_adapter.cli.messages import fail
from dicom_adapter.config.model import Config
from dicom_adapter.net.tls import server_context
from dicom_adapter.plugins.isolation import describe_settings, make_submitter
from dicom_adapter.plugins.registry import PROCESSOR, SUBMITTER, ComponentKind, PluginInfo


@frozen(kw_only=True)
class Tried:
    """What came of trying the plugins' classes with their settings."""

    described: dict[str, str] = field(factory=dict)  # by AE title, what its processor will do
    undescribed: dict[str, str] = field(factory=dict)  # by AE title, why its processor does not say that
    broken: dict[str, str] = field(factory=dict)  # by submitter, why it cannot be made
    problems: list[str] = field(factory=list)  # all of these reasons, each with the plugin's name


def check(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Tell everything that can be told without starting: errors, plugins, and what each AE title will do.

    Exit status: 0 when `run --strict` would start, 1 otherwise. All errors are listed, not just the first.
    """
    path = find_file(file, config)
    found = read(path)
    tried = try_plugins(found)
    problems = problems_of(found, tried)
    usable = found.loaded.config
    served = [] if usable is None else [_entry(usable, ae_title, tried) for ae_title in usable.ae_titles]
    if as_json:
        typer.echo(json.dumps({"ok": not problems, "problems": problems, "aeTitles": served}, indent=2))
    else:
        _show(served)
    if problems and as_json:
        raise typer.Exit(1)
    if problems:
        raise fail(*problems)
    if not as_json:
        typer.echo(f"{path}: no errors")


def problems_of(found: Read, tried: Tried) -> list[str]:
    """Everything that is wrong, a sentence each."""
    return found.invalid + found.unavailable + tried.problems + _tls_problems(found)


def try_plugins(found: Read) -> Tried:
    """Make the submitters and have the processors describe their settings, as `run` does at its start."""
    config, plugins = found.loaded.config, found.plugins
    tried = Tried()
    if config is None:
        return tried
    for name, submitter in config.submitters.items():
        if not submitter.unavailable:
            try:
                make_submitter(config, plugins, name)
            except Refused as refusal:
                tried.broken[name] = str(refusal)
                tried.problems.append(f"{_provider(found, SUBMITTER, submitter.type)}: {refusal}")
    for name, table in config.ae_titles.items():
        if not table.unavailable:
            try:
                tried.described[name] = describe_settings(config, plugins, name)
            except Refused as refusal:
                tried.undescribed[name] = str(refusal)
                problem = f"{_provider(found, PROCESSOR, table.processor)}: AE title '{name}': {refusal}"
                tried.problems.append(problem)
    return tried


def _tls_problems(found: Read) -> list[str]:
    """What keeps a receiver from using the files of [dicom.tls]."""
    config = found.loaded.config
    if config is None or config.dicom.tls is None:
        return []
    try:
        server_context(config.dicom.tls)
    except Refused as refusal:
        return [str(refusal)]
    return []


def _provider(found: Read, kind: ComponentKind, name: str) -> PluginInfo:
    return next(c.plugin for c in found.plugins.components if c.kind is kind and c.name == name and not c.problem)


def _entry(config: Config, ae_title: str, tried: Tried) -> dict[str, Any]:
    table = config.ae_titles[ae_title]
    submitter = config.submitter_for(ae_title)
    return {
        "aeTitle": ae_title,
        "processor": table.processor,
        "does": tried.described.get(ae_title, ""),
        "submitter": submitter,
        "refused": config.unavailable(ae_title) or tried.broken.get(submitter) or tried.undescribed.get(ae_title, ""),
    }


def _show(served: list[dict[str, Any]]) -> None:
    if not served:
        return
    table = Table("AE title", "Processor", "What it does", "Submitter")
    for entry in served:
        does = f"[red]refused: {escape(entry['refused'])}[/red]" if entry["refused"] else escape(entry["does"])
        table.add_row(escape(entry["aeTitle"]), entry["processor"], does, entry["submitter"])
    Console().print(table)
