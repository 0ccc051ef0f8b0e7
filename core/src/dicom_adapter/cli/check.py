"""`dicom-adapter check`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from attrs import field, frozen
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_adapter.api.certificates import Certificate
from dicom_adapter.api.errors import Refused
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.cli.configuration import CheckedConfiguration, ConfigArgument, ConfigOption, find_file, read
from dicom_adapter.cli.messages import fail
from dicom_adapter.config.model import Config
from dicom_adapter.net.tls import server_context
from dicom_adapter.operations.certificates import certificates_of_listener, certificates_of_submitters, describe
from dicom_adapter.plugins.isolation import describe_settings, make_submitter
from dicom_adapter.plugins.registry import PROCESSOR, SUBMITTER, ComponentKind, PluginInfo
from dicom_adapter.runtime.clock import SystemClock


@frozen(kw_only=True)
class PluginTrials:
    """The results of creating submitters and describing processors with the configured settings."""

    described: dict[str, str] = field(factory=dict)  # for each AE title, the processor's description of its settings
    undescribed: dict[str, str] = field(factory=dict)  # for each AE title without a description, the reason
    broken: dict[str, str] = field(factory=dict)  # for each submitter that cannot be created, the reason
    submitters: dict[str, Submitter[Any]] = field(factory=dict)  # the submitters that can be created, by name
    problems: list[str] = field(factory=list)  # all these reasons, each with the name of the plugin


def check(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Check a configuration without starting the service: errors, plugins, and what each AE title will do.

    Exit status: 0 if `run --strict` would start, 1 otherwise. All errors are listed, not only the first.
    """
    path = find_file(file, config)
    found = read(path)
    trials = try_plugins(found)
    problems = list_problems(found, trials)
    usable = found.loaded.config
    certificates = _certificates(usable, trials)
    served = [] if usable is None else [_entry(usable, ae_title, trials) for ae_title in usable.ae_titles]
    if as_json:
        found_certificates = [_certificate_entry(one) for one in certificates]
        shown = {"ok": not problems, "problems": problems, "aeTitles": served, "certificates": found_certificates}
        typer.echo(json.dumps(shown, indent=2))
    else:
        _show(served)
        for one in certificates:
            typer.echo(describe(one, SystemClock().now()))
    if problems and as_json:
        raise typer.Exit(1)
    if problems:
        raise fail(*problems)
    if not as_json:
        typer.echo(f"{path}: no errors")


def list_problems(found: CheckedConfiguration, trials: PluginTrials) -> list[str]:
    """Return all problems of the configuration and its plugins, one sentence each."""
    return found.invalid + found.unavailable + trials.problems + _tls_problems(found)


def try_plugins(found: CheckedConfiguration) -> PluginTrials:
    """Create the submitters, and let the processors describe their settings, as `run` does at its start."""
    config, plugins = found.loaded.config, found.plugins
    trials = PluginTrials()
    if config is None:
        return trials
    for name, submitter in config.submitters.items():
        if not submitter.unavailable:
            try:
                trials.submitters[name] = make_submitter(config, plugins, name)
            except Refused as refusal:
                trials.broken[name] = str(refusal)
                trials.problems.append(f"{_provider(found, SUBMITTER, submitter.type)}: {refusal}")
    for name, table in config.ae_titles.items():
        if not table.unavailable:
            try:
                trials.described[name] = describe_settings(config, plugins, name)
            except Refused as refusal:
                trials.undescribed[name] = str(refusal)
                problem = f"{_provider(found, PROCESSOR, table.processor)}: AE title '{name}': {refusal}"
                trials.problems.append(problem)
    return trials


def _tls_problems(found: CheckedConfiguration) -> list[str]:
    """Return why a receiver cannot use the files of [dicom.tls]; an empty list if it can use them."""
    config = found.loaded.config
    if config is None or config.dicom.tls is None:
        return []
    try:
        server_context(config.dicom.tls)
    except Refused as refusal:
        return [str(refusal)]
    return []


def _certificates(config: Config | None, trials: PluginTrials) -> list[Certificate]:
    """Return the certificates that expire, the next one first."""
    if config is None:
        return []
    found = [*certificates_of_listener(config), *certificates_of_submitters(trials.submitters, lambda *_: None)]
    return sorted(found, key=lambda one: one.expires_at)


def _certificate_entry(certificate: Certificate) -> dict[str, Any]:
    left = certificate.expires_at - SystemClock().now()
    return {
        "subject": certificate.subject,
        "expiresAt": certificate.expires_at.isoformat(),
        "daysLeft": left.days,
    }


def _provider(found: CheckedConfiguration, kind: ComponentKind, name: str) -> PluginInfo:
    return next(c.plugin for c in found.plugins.components if c.kind is kind and c.name == name and not c.problem)


def _entry(config: Config, ae_title: str, trials: PluginTrials) -> dict[str, Any]:
    table = config.ae_titles[ae_title]
    submitter = config.submitter_for(ae_title)
    return {
        "aeTitle": ae_title,
        "processor": table.processor,
        "description": trials.described.get(ae_title, ""),
        "submitter": submitter,
        "refused": config.unavailable(ae_title) or trials.broken.get(submitter) or trials.undescribed.get(ae_title, ""),
    }


def _show(served: list[dict[str, Any]]) -> None:
    if not served:
        return
    table = Table("AE title", "Processor", "Description", "Submitter")
    for entry in served:
        refusal = f"[red]refused: {escape(entry['refused'])}[/red]"
        description = refusal if entry["refused"] else escape(entry["description"])
        table.add_row(escape(entry["aeTitle"]), entry["processor"], description, entry["submitter"])
    Console().print(table)
