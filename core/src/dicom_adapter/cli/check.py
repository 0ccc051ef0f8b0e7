"""`dicom-adapter check`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
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
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.config.model import Config
from dicom_adapter.flow.results.destinations import known_destinations, list_sender_notices
from dicom_adapter.net.tls import server_context
from dicom_adapter.operations.certificates import certificates_of_listener, certificates_of_submitters, describe
from dicom_adapter.operations.connections import ConnectionTrial, try_connections
from dicom_adapter.operations.preflight import Listener, Preflight, try_start
from dicom_adapter.plugins.isolation import (
    describe_settings,
    list_addresses,
    list_notices,
    list_pipelines,
    make_notifier,
    make_submitter,
)
from dicom_adapter.plugins.pipelines import find_unknown_pipelines
from dicom_adapter.plugins.registry import NOTIFIER, PROCESSOR, SUBMITTER, ComponentKind, PluginInfo
from dicom_adapter.runtime.clock import SystemClock


@frozen(kw_only=True)
class PluginTrials:
    """The results of creating submitters and describing processors with the configured settings."""

    described: dict[str, str] = field(factory=dict)  # for each AE title, the processor's description of its settings
    notices: list[str] = field(factory=list)  # what operators should know of the settings, each with the AE title
    undescribed: dict[str, str] = field(factory=dict)  # for each AE title without a description, the reason
    broken: dict[str, str] = field(factory=dict)  # for each submitter that cannot be created, the reason
    submitters: dict[str, Submitter[Any]] = field(factory=dict)  # the submitters that can be created, by name
    listeners: list[Listener] = field(factory=list)  # addresses of servers of plugins
    problems: list[str] = field(factory=list)  # all these reasons, each with the name of the plugin


def check(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Also ask the platform of each submitter, without any change there.")
    ] = False,
    file_only: Annotated[
        bool,
        typer.Option(
            "--file-only", help="Do not try folders, ledger and ports: the service will run on another machine."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Check a configuration, its plugins and each AE title, and try what the service needs, without starting it.

    Exit status: 0 if `run --strict` would start, servers of plugins could listen and no certificate has expired (with
    --connect: and no platform refuses), 1 otherwise. All errors are listed, not only the first. Run the command as the
    service's user.
    """
    path = find_file(file, config)
    found = read(path)
    trials = try_plugins(found)
    usable = found.loaded.config
    start = Preflight() if usable is None or file_only else try_start(usable, trials.listeners)
    connections = list(try_connections(trials.submitters)) if connect else []
    report = CheckReport(
        problems=list_problems(found, trials) + start.problems,
        warnings=[*trials.notices, *start.warnings],
        ae_titles=[] if usable is None else [_entry(usable, ae_title, trials) for ae_title in usable.ae_titles],
        certificates=_certificates(usable, trials),
        connections=connections,
    )
    if as_json:
        typer.echo(json.dumps(_as_json(report), indent=2))
    else:
        _show(report)
    if report.all_problems and as_json:
        raise typer.Exit(1)
    if report.all_problems:
        raise fail(*(f"{path}: {problem}" for problem in report.all_problems))
    if not as_json:
        typer.echo(f"{path}: no errors")


@frozen(kw_only=True)
class CheckReport:
    """Everything that the command shows."""

    problems: list[str]  # of the configuration, its plugins and the trials of a start
    warnings: list[str]
    ae_titles: list[dict[str, Any]]
    certificates: list[Certificate]  # in the order of expiry
    connections: list[ConnectionTrial]

    @property
    def all_problems(self) -> list[str]:
        """All reasons for exit status 1."""
        now = SystemClock().now()
        expired = [one for one in self.certificates if one.expires_at <= now and not one.is_authority]
        refused = [trial for trial in self.connections if trial.problem]
        return [
            *self.problems,
            *(f"{describe(certificate, now)}; renew it" for certificate in expired),
            *(f"submitter '{trial.submitter}': {trial.problem}" for trial in refused),
        ]


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
    trials.problems.extend(_unusable_notifiers(found, config))
    known, pipelines = known_destinations(trials.submitters), _pipelines(found, config, trials)
    for name, table in config.ae_titles.items():
        if not table.unavailable:
            try:
                notices = [*list_notices(config, plugins, name), *list_sender_notices(table.results, known)]
                trials.notices.extend(f"AE title '{name}': {notice}" for notice in notices)
                trials.described[name] = describe_settings(config, plugins, name)
                unknown = find_unknown_pipelines(config, name, pipelines)
                trials.problems.extend(f"AE title '{name}': {problem}" for problem in unknown)
            except Refused as refusal:
                trials.undescribed[name] = str(refusal)
                trials.problems.append(_processor_problem(found, config, name, refusal))
    trials.notices.extend([*_unable_to_deliver(config, trials.submitters), *_unknown_ae_titles(config)])
    for name in trials.described:
        try:
            addresses = list_addresses(config, plugins, name)
            trials.listeners.extend(Listener(f"AE title '{name}'", *address) for address in addresses)
        except Refused as refusal:  # the AE title is served nevertheless
            trials.problems.append(_processor_problem(found, config, name, refusal))
    return trials


def _unusable_notifiers(found: CheckedConfiguration, config: Config) -> Iterator[str]:
    """Yield why notifiers cannot be created."""
    for name, table in config.notifications.items():
        if not table.unavailable:
            try:
                make_notifier(config, found.plugins, name)
            except Refused as refusal:
                yield f"{_provider(found, NOTIFIER, table.type)}: {refusal}"


def _pipelines(found: CheckedConfiguration, config: Config, trials: PluginTrials) -> dict[str, Collection[str]]:
    """Return the ids of the pipelines of each submitter that knows all of them."""
    known: dict[str, Collection[str]] = {}
    for name, submitter in trials.submitters.items():
        try:
            ids = list_pipelines(name, submitter)
        except Refused as refusal:
            trials.problems.append(f"{_provider(found, SUBMITTER, config.submitters[name].type)}: {refusal}")
        else:
            if ids is not None:
                known[name] = ids
    return known


def _unable_to_deliver(config: Config, submitters: Mapping[str, Submitter[Any]]) -> Iterator[str]:
    """Yield a warning for each destination of results that runs pipelines: delivery jobs have no pipeline.

    A submitter for a DICOM node also follows jobs if it waits for storage commitments, but the node has no jobs.
    """
    for ae_title, table in config.ae_titles.items():
        for name in table.results.to:
            submitter = submitters.get(name)
            if submitter is not None and submitter.follows_jobs and submitter.platform_has_jobs:
                yield (
                    f"AE title '{ae_title}': results.to names submitter '{name}' of type '{submitter.name}', which "
                    "runs pipelines and delivers nothing: the delivery jobs would be faulted. Name a submitter that "
                    "delivers, for example of type 'dicom', 'dicomweb' or 'folder'"
                )


def _unknown_ae_titles(config: Config) -> Iterator[str]:
    """Yield a warning for each AE title that a notification names and that is not configured."""
    for name, table in config.notifications.items():
        for ae_title in table.ae_titles or ():
            if ae_title not in config.ae_titles:
                yield f"notification '{name}': ae-titles names '{ae_title}', which is not a configured AE title"


def _processor_problem(found: CheckedConfiguration, config: Config, ae_title: str, refusal: Refused) -> str:
    plugin = _provider(found, PROCESSOR, config.ae_titles[ae_title].processor)
    return f"{plugin}: AE title '{ae_title}': {refusal}"


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
    """Return all certificates, in the order of expiry."""
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
    submitters = config.submitters_of(ae_title)
    broken = next((trials.broken[name] for name in submitters if name in trials.broken), "")
    return {
        "aeTitle": ae_title,
        "processor": table.processor,
        "description": trials.described.get(ae_title, ""),
        "submitter": config.submitter_for(ae_title),
        "refused": config.unavailable(ae_title) or broken or trials.undescribed.get(ae_title, ""),
    }


def _as_json(report: CheckReport) -> dict[str, Any]:
    return {
        "ok": not report.all_problems,
        "problems": report.all_problems,
        "warnings": report.warnings,
        "aeTitles": report.ae_titles,
        "certificates": [_certificate_entry(one) for one in report.certificates],
        "connections": [
            {"submitter": trial.submitter, "tried": trial.was_tried, "answer": trial.answer, "problem": trial.problem}
            for trial in report.connections
        ],
    }


def _show(report: CheckReport) -> None:
    if report.ae_titles:
        _show_ae_titles(report.ae_titles)
    for certificate in report.certificates:
        typer.echo(describe(certificate, SystemClock().now()))
    for trial in report.connections:
        if not trial.problem:
            answer = trial.answer or "not tried: submitters of this type cannot ask their platform"
            typer.echo(f"submitter '{trial.submitter}': {answer}")
    warn(*report.warnings)


def _show_ae_titles(entries: list[dict[str, Any]]) -> None:
    table = Table("AE title", "Processor", "Description", "Submitter")
    for entry in entries:
        refusal = f"[red]refused: {escape(entry['refused'])}[/red]"
        description = refusal if entry["refused"] else escape(entry["description"])
        table.add_row(escape(entry["aeTitle"]), entry["processor"], description, entry["submitter"])
    Console().print(table)
