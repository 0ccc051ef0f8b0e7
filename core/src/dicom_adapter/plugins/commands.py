"""Commands of plugins for the command line."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import typer
import typer.main

from dicom_adapter.api.errors import Refused


def check(command: Any, reserved: Collection[str] = ()) -> None:
    """Raise if typer cannot add the command, or if its name is one of the `reserved` names."""
    probe = typer.Typer()
    probe.callback()(lambda: None)  # so that typer makes a group, even of one command
    add(probe, command)
    group: Any = typer.main.get_command(probe)
    conflicts = sorted(group.commands.keys() & set(reserved))
    if conflicts:
        raise Refused(f"there is a command `{conflicts[0]}` already; the plugin must use another name")


def add(app: typer.Typer, command: Any) -> None:
    """Add a function or a `typer.Typer` to the command line."""
    if isinstance(command, typer.Typer):
        app.add_typer(command)
    else:
        app.command()(command)
