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
from dicom_adapter.cli.check import problems_of, try_plugins
from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, Read, find_file, open_ledger, read
from dicom_adapter.cli.messages import fail
from dicom_adapter.config.model import Config
from dicom_adapter.ledger import Ledger, configurations
from dicom_adapter.ledger.configurations import Configuration, ConfigurationState, Draining, ReloadRequest
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.service.reload.plan import Change, Plan, Tables, compare, to_json
from dicom_adapter.service.reload.snapshot import Snapshot, snapshot

LOOK_EVERY_S = 0.2
COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "~": typer.colors.YELLOW, "!": typer.colors.RED}


class Removed(str, Enum):
    """What becomes of AE titles and submitters that are removed."""

    KEEP = "keep"
    DRAIN = "drain"


@frozen(kw_only=True)
class ReloadOutcome:
    """What came of it."""

    plan: Plan | None = None  # None: the file is not valid, or no service runs
    applied: int | None = None  # the number of the configuration that runs now
    problems: tuple[str, ...] = ()


def reload(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    apply: Annotated[
        bool, typer.Option("--apply/--plan", help="Apply the difference, or only show it.", show_default="--plan")
    ] = False,
    removed: Annotated[
        Removed,
        typer.Option(
            help="Instances and jobs of removed AE titles and submitters: keep them until these are configured "
            "again, or finish them first (drain)."
        ),
    ] = Removed.KEEP,
    seconds: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait until the service has applied it.")
    ] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show what is different between the running service and the file, or have the service apply it.

    Exit status: 0 when it was applied, could be (--plan), or nothing is to do; 1 when it is refused or failed.
    """
    outcome = _reload(find_file(file, config), apply, removed, time.monotonic() + seconds)
    if as_json:
        plan = None if outcome.plan is None else to_json(outcome.plan)
        told = {"plan": plan, "applied": outcome.applied, "problems": list(outcome.problems)}
        typer.echo(json.dumps(told, indent=2))
    else:
        _show(outcome, removed)
    if outcome.problems:
        raise typer.Exit(1)


def _reload(path: Path, apply: bool, removed: Removed, deadline: float) -> ReloadOutcome:
    found = read(path)
    problems = problems_of(found, try_plugins(found))
    if problems:
        return ReloadOutcome(problems=(*problems, "the service, if it runs, goes on as before"))
    config = found.loaded.config
    assert config is not None  # nothing is wrong with it
    if not DataFolder.of(config).is_used:
        return ReloadOutcome(problems=(_not_running(path, config),))
    ledger = open_ledger(path)
    try:
        return _compare(ledger, found, config, ReloadOptions(path, apply, removed, deadline))
    except Refused as refusal:
        return ReloadOutcome(problems=(str(refusal),))
    finally:
        ledger.close()


@frozen
class ReloadOptions:
    """What the command was called for."""

    path: Path
    apply: bool
    removed: Removed
    deadline: float  # monotonic


def _compare(ledger: Ledger, found: Read, config: Config, request: ReloadOptions) -> ReloadOutcome:
    running = _running(ledger, config, request)
    before = Snapshot(**running.settings)
    after = snapshot(config, found.plugins, before.salt)
    plan = compare(before, after)
    if plan.restart:
        keys = ", ".join(change.key for change in plan.restart)
        why = f"{keys}: cannot be changed while the service runs, and nothing was; restart it, or take that back"
        return ReloadOutcome(plan=plan, problems=(why,))
    if plan.is_empty or not request.apply:
        return ReloadOutcome(plan=plan)
    draining = plan.removed if request.removed is Removed.DRAIN else Draining()
    asked = ReloadRequest(replaces=running.number, restart_host=bool(plan.plugins), draining=draining)
    with ledger.write() as transaction:
        number = configurations.request(
            transaction, found.text, str(request.path.resolve().parent), after.to_json(), asked, SystemClock().now()
        )
    return _wait(ledger, config, plan, number, request.deadline)


def _running(ledger: Ledger, config: Config, request: ReloadOptions) -> Configuration:
    """What runs, when nothing else is under way any more. Raises Refused."""
    while True:
        with ledger.read() as transaction:
            running, asked = configurations.running(transaction), configurations.requested(transaction)
        if running is not None and asked is None:
            return running
        if not DataFolder.of(config).is_used:
            raise Refused(_not_running(request.path, config))
        if time.monotonic() > request.deadline:
            raise Refused("the service starts, or applies another configuration, for longer than was to be waited for")
        time.sleep(LOOK_EVERY_S)


def _wait(ledger: Ledger, config: Config, plan: Plan, number: int, deadline: float) -> ReloadOutcome:
    while True:
        with ledger.read() as transaction:
            asked = configurations.get(transaction, number)
        assert asked is not None  # it is among the last ones
        if asked.state is ConfigurationState.REFUSED:
            return ReloadOutcome(plan=plan, problems=(f"not applied: {asked.reason}",))
        if asked.state is not ConfigurationState.REQUESTED:
            problems = (f"applied, but {asked.reason}",) if asked.reason else ()
            return ReloadOutcome(plan=plan, applied=number, problems=problems)
        if not DataFolder.of(config).is_used:
            why = "the service has ended before it applied it; it takes the file when it is started again"
            return ReloadOutcome(plan=plan, problems=(why,))
        if time.monotonic() > deadline:
            why = "not applied yet; `dicom-adapter status` says when it is, and whether the service works"
            return ReloadOutcome(plan=plan, problems=(why,))
        time.sleep(LOOK_EVERY_S)


def _not_running(path: Path, config: Config) -> str:
    return (
        f"no service runs with the data folder {config.storage.path}: start it with `dicom-adapter run {path}`; "
        "a changed storage.path needs a restart of the service that has the former one"
    )


# --- for people -----------------------------------------------------------------------------------------------------


def _show(outcome: ReloadOutcome, removed: Removed) -> None:
    if outcome.plan is not None:
        for line in _lines(outcome.plan, removed):
            typer.secho(line, fg=COLOURS.get(line.strip()[:1]))
        if outcome.plan.is_empty:
            typer.echo("nothing to do: the service runs with what the file says")
    if outcome.problems:
        fail(*outcome.problems)
    elif outcome.applied is not None:
        typer.echo(f"applied as configuration {outcome.applied}")


def _lines(plan: Plan, removed: Removed) -> Iterator[str]:
    gone = "its instances and jobs wait until it is configured again"
    if removed is Removed.DRAIN:
        gone = "goes when its instances and jobs are done"
    yield from _tables("AE title", plan.ae_titles, gone, plan)
    yield from _tables("submitter", plan.submitters, gone, None)
    yield from (f"~ {change}" for change in plan.settings)
    yield from (
        f"~ plugin {_plugin(change)}: the host process begins anew, all processors too" for change in plan.plugins
    )
    yield from (f"! {change}: needs a restart of the service" for change in plan.restart)


def _tables(kind: str, tables: Tables, gone: str, plan: Plan | None) -> Iterator[str]:
    yield from (f"+ {kind} {name}" for name in tables.added)
    yield from (f"- {kind} {name}: {gone}" for name in tables.removed)
    for name, changes in tables.changed.items():
        anew = (
            "" if plan is None else "; its processor begins anew" if plan.rebuilds(name) else "; its processor goes on"
        )
        yield f"~ {kind} {name}{anew}"
        yield from (f"    {change}" for change in changes)


def _plugin(change: Change) -> str:
    return f"{change.key}: {change.before or 'not loaded'} -> {change.after or 'not loaded'}"
