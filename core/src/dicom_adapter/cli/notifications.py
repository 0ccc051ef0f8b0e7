"""`dicom-adapter notifications`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import DicomAdapterError, Refused, describe_failure
from dicom_adapter.cli.configuration import ConfigArgument, ConfigOption, find_file, open_service, read
from dicom_adapter.cli.messages import fail, warn
from dicom_adapter.cli.times import Times, Utc
from dicom_adapter.cli.wrapping import wrapped
from dicom_adapter.config.model import Config
from dicom_adapter.host.notifications.message import line_of, make_test
from dicom_adapter.host.notifications.notifications import FOLDER
from dicom_adapter.host.notifications.state_file import NotificationState, StateFile
from dicom_adapter.ledger import health
from dicom_adapter.ledger.health import PartHealth
from dicom_adapter.operations.documents.moments import iso
from dicom_adapter.plugins.isolation import make_notifier
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.parts import Part, PartKind

notifications = typer.Typer(
    help="Test and list the notifications: messages to people by mail, webhook and others.", no_args_is_help=True
)


@notifications.command()
def test(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Names of notifications; default: all.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Send a test message now, also in quiet hours. The service may be running or stopped.

    Exit status: 0 if all messages were accepted, 1 otherwise.
    """
    path = find_file(config)
    checked = read(path)
    found = checked.loaded.config
    if found is None:
        raise fail(*(f"{path}: {invalid}" for invalid in checked.invalid))
    if not found.notifications:
        raise fail(f"{path} has no table [notifications.<name>]: `dicom-adapter plugins` lists the notifiers")
    unknown = [name for name in names or () if name not in found.notifications]
    if unknown:
        known = ", ".join(found.notifications)
        raise fail(f"{path} has no table [notifications.{unknown[0]}] (there are: {known})")
    problems = dict(_try_all(found, checked.plugins, names or list(found.notifications)))
    if problems:
        raise fail(*(f"notification '{name}': {problem}" for name, problem in problems.items()))


def _try_all(config: Config, plugins: Plugins, names: list[str]) -> Iterator[tuple[str, str]]:
    """Send a message with each notification. Yield the names of those that fail, with the reasons."""
    for name in names:
        table = config.notifications[name]
        if table.unavailable:
            yield name, f"needs {table.unavailable}"
            continue
        try:
            notifier = make_notifier(config, plugins, name)
            try:
                notifier.send(make_test(SystemClock().now()))
            finally:
                notifier.close()
        except Refused as refusal:
            yield name, str(refusal)
        except Exception as failure:  # noqa: BLE001 - a plugin may raise anything
            yield name, str(failure) if isinstance(failure, DicomAdapterError) else describe_failure(failure)
        else:
            typer.echo(f"{name}: sent by {table.type}")


@notifications.command("list")
def list_notifications(
    file: ConfigArgument = None,
    config: ConfigOption = None,
    utc: Utc = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of text.")] = False,
) -> None:
    """List the notifications: when the last message was sent, what waits for the next one, and problems.

    Exit status: 0, or 1 if there is no ledger.
    """
    ledger, service = open_service(find_file(file, config))
    found = service.loaded.config
    assert found is not None  # `open_service` has checked it
    with ledger.read() as transaction:
        parts = health.load(transaction)
    rows = [_entry(found, name, parts) for name in found.notifications]
    if as_json:
        typer.echo(json.dumps([_as_json(*row) for row in rows], indent=2))
        return
    for row in rows:
        _show(*row, Times.chosen(utc))
    if not rows:
        warn("no notifications are configured: nobody gets a message about failures; see [notifications.<name>]")


def _entry(
    config: Config, name: str, parts: Mapping[str, PartHealth]
) -> tuple[str, str, NotificationState | None, str]:
    """Return the name, the type, the state and the problem of a notification."""
    table = config.notifications[name]
    part = parts.get(str(Part(PartKind.NOTIFICATION, name)))
    reason = table.unavailable and f"needs {table.unavailable}"
    state = StateFile(config.storage.path / FOLDER, name).load()
    return name, table.type, state, reason or ("" if part is None else part.reason)


def _show(name: str, type_: str, state: NotificationState | None, problem: str, times: Times) -> None:
    last = None if state is None else state.last_sent
    waiting = [] if state is None else state.pending.select()
    sent = "no message sent yet" if last is None else f"last message {times.full(last)}"
    typer.echo(f"{name}  {type_}, {sent}, {counted(len(waiting), 'notice')} waiting")
    for line in wrapped(problem):
        typer.secho(line, fg=typer.colors.RED)
    for one in waiting:
        for line in wrapped(line_of(one.notice)):
            typer.echo(line)


def _as_json(name: str, type_: str, state: NotificationState | None, problem: str) -> dict[str, Any]:
    last = None if state is None else state.last_sent
    return {
        "name": name,
        "type": type_,
        "lastSent": iso(last),
        "waiting": [] if state is None else [line_of(one.notice) for one in state.pending.select()],
        "problem": problem,
    }
