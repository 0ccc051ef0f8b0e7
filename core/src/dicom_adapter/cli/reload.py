"""`dicom-adapter reload`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from attrs import frozen

from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.check import list_problems, try_plugins
from dicom_adapter.cli.configuration import (
    CheckedConfiguration,
    ConfigArgument,
    ConfigOption,
    find_file,
    open_ledger,
    read,
)
from dicom_adapter.cli.messages import fail
from dicom_adapter.config.model import Config
from dicom_adapter.ledger import Ledger, configurations
from dicom_adapter.ledger.configurations import Configuration, ConfigurationState, Draining, ReloadRequest
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.service.reload.plan import Change, Plan, Tables, compare, to_json
from dicom_adapter.service.reload.snapshot import Snapshot
from dicom_adapter.service.reload.take_snapshot import snapshot

LOOK_EVERY_S = 0.2  # the state of the reload is read from the ledger at this interval
COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "~": typer.colors.YELLOW, "!": typer.colors.RED}


class RemovalPolicy(str, Enum):
    """Treatment of the open work of removed AE titles and submitters."""

    KEEP = "keep"
    DRAIN = "drain"


@frozen(kw_only=True)
class ReloadOutcome:
    """The result of the command."""

    plan: Plan | None = None  # None: the file is not valid, or no service runs
    applied: int | None = None  # number of the applied configuration; None: nothing was applied
    problems: tuple[str, ...] = ()


def reload(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    apply: Annotated[
        bool, typer.Option("--apply/--plan", help="Apply the difference, or only show it.", show_default="--plan")
    ] = False,
    removed: Annotated[
        RemovalPolicy,
        typer.Option(
            metavar="keep|drain",
            help="Instances and jobs of removed AE titles and submitters: keep them until the AE titles and submitters "
            "are configured again, or finish them first (drain).",
        ),
    ] = RemovalPolicy.KEEP,
    seconds: Annotated[
        float,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="Seconds to wait until the service has applied the file."
        ),
    ] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show the differences between the running service and the file, or let the service apply the file.

    Exit status: 0 if the file was applied, could be applied (--plan), or changes nothing; 1 otherwise.
    """
    outcome = _reload(find_file(file, config), apply, removed, time.monotonic() + seconds)
    if as_json:
        plan = None if outcome.plan is None else to_json(outcome.plan)
        result = {"plan": plan, "applied": outcome.applied, "problems": list(outcome.problems)}
        typer.echo(json.dumps(result, indent=2))
    else:
        _show(outcome, removed)
    if outcome.problems:
        raise typer.Exit(1)


def _reload(path: Path, apply: bool, removed: RemovalPolicy, deadline: float) -> ReloadOutcome:
    found = read(path)
    problems = list_problems(found, try_plugins(found))
    if problems:
        return ReloadOutcome(problems=(*problems, "nothing was changed; a running service keeps its configuration"))
    config = found.loaded.config
    assert config is not None  # it has no problems
    if not DataFolder.of(config).is_used:
        return ReloadOutcome(problems=(_not_running(path, config),))
    ledger = open_ledger(path)
    try:
        return _compare_and_apply(ledger, found, config, ReloadOptions(path, apply, removed, deadline))
    except Refused as refusal:
        return ReloadOutcome(problems=(str(refusal),))
    finally:
        ledger.close()


@frozen
class ReloadOptions:
    """The options of the command."""

    path: Path
    apply: bool
    removed: RemovalPolicy
    deadline: float  # monotonic time at which the command gives up


def _compare_and_apply(
    ledger: Ledger, found: CheckedConfiguration, config: Config, options: ReloadOptions
) -> ReloadOutcome:
    running = _running(ledger, config, options)
    before = Snapshot(**running.settings)
    after = snapshot(config, found.plugins, before.salt)
    plan = compare(before, after)
    if plan.restart:
        keys = ", ".join(change.key for change in plan.restart)
        why = f"{keys}: needs a restart of the service; nothing was changed. Restart the service, or undo this change"
        return ReloadOutcome(plan=plan, problems=(why,))
    if plan.is_empty or not options.apply:
        return ReloadOutcome(plan=plan)
    draining = plan.removed if options.removed is RemovalPolicy.DRAIN else Draining()
    request = ReloadRequest(replaces=running.number, restart_host=bool(plan.plugins), draining=draining)
    folder = str(options.path.resolve().parent)
    with ledger.write() as transaction:
        number = configurations.request(transaction, found.text, folder, after.to_json(), request, SystemClock().now())
    return _wait(ledger, config, plan, number, options.deadline)


def _running(ledger: Ledger, config: Config, options: ReloadOptions) -> Configuration:
    """Wait until no reload is in progress, and return the running configuration. Raises Refused."""
    while True:
        with ledger.read() as transaction:
            running, requested = configurations.running(transaction), configurations.requested(transaction)
        if running is not None and requested is None:
            return running
        if not DataFolder.of(config).is_used:
            raise Refused(_not_running(options.path, config))
        if time.monotonic() > options.deadline:
            raise Refused(
                "the service is still starting or applying another configuration; try again, or use a longer --wait"
            )
        time.sleep(LOOK_EVERY_S)


def _wait(ledger: Ledger, config: Config, plan: Plan, number: int, deadline: float) -> ReloadOutcome:
    while True:
        with ledger.read() as transaction:
            requested = configurations.get(transaction, number)
        assert requested is not None  # the newest configurations are kept
        if requested.state is ConfigurationState.REFUSED:
            return ReloadOutcome(plan=plan, problems=(f"not applied: {requested.reason}",))
        if requested.state is not ConfigurationState.REQUESTED:
            problems = (f"applied, but {requested.reason}",) if requested.reason else ()
            return ReloadOutcome(plan=plan, applied=number, problems=problems)
        if not DataFolder.of(config).is_used:
            why = "the service ended before it applied the file; it will use the file at its next start"
            return ReloadOutcome(plan=plan, problems=(why,))
        if time.monotonic() > deadline:
            why = "not applied yet; `dicom-adapter status` shows whether the service is still applying it"
            return ReloadOutcome(plan=plan, problems=(why,))
        time.sleep(LOOK_EVERY_S)


def _not_running(path: Path, config: Config) -> str:
    return (
        f"no service is running with the data folder {config.storage.path}: start it with `dicom-adapter run {path}`. "
        "If storage.path was changed, restart the service that uses the earlier folder"
    )


# --- text -----------------------------------------------------------------------------------------------------------


def _show(outcome: ReloadOutcome, removed: RemovalPolicy) -> None:
    if outcome.plan is not None:
        for line in _lines(outcome.plan, removed):
            typer.secho(line, fg=COLOURS.get(line.strip()[:1]))
        if outcome.plan.is_empty:
            typer.echo("no changes: the service already uses this configuration")
    if outcome.problems:
        fail(*outcome.problems)
    elif outcome.applied is not None:
        typer.echo(f"applied as configuration {outcome.applied}")


def _lines(plan: Plan, removed: RemovalPolicy) -> Iterator[str]:
    consequence = "its instances and jobs wait until it is configured again"
    if removed is RemovalPolicy.DRAIN:
        consequence = "is removed when its instances and jobs are finished"
    yield from _tables("AE title", plan.ae_titles, consequence, plan)
    yield from _tables("submitter", plan.submitters, consequence, None)
    yield from (f"~ {change}" for change in plan.settings)
    yield from (
        f"~ plugin {_plugin(change)}: the host process is restarted, with all processors" for change in plan.plugins
    )
    yield from (f"! {change}: needs a restart of the service" for change in plan.restart)


def _tables(kind: str, tables: Tables, consequence: str, plan: Plan | None) -> Iterator[str]:
    yield from (f"+ {kind} {name}" for name in tables.added)
    yield from (f"- {kind} {name}: {consequence}" for name in tables.removed)
    for name, changes in tables.changed.items():
        effect = ""
        if plan is not None:
            effect = "; its processor is replaced" if plan.rebuilds(name) else "; its processor continues"
        yield f"~ {kind} {name}{effect}"
        yield from (f"    {change}" for change in changes)


def _plugin(change: Change) -> str:
    return f"{change.key}: {change.before or 'not loaded'} -> {change.after or 'not loaded'}"
