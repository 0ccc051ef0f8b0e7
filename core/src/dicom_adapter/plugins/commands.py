"""Commands that plugins bring to the command line."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import typer
import typer.main

from dicom_adapter.api.errors import Refused


def check(command: Any, own: Collection[str] = ()) -> None:
    """Try a command alone; raises what is wrong with it, such as a name that is among the adapter's `own`."""
    probe = typer.Typer()
    probe.callback()(lambda: None)
    add(probe, command)
    group: Any = typer.main.get_command(probe)
    taken = sorted(group.commands.keys() & set(own))
    if taken:
        raise Refused(f"there is a command `{taken[0]}` already; the plugin has to call its own otherwise")


def add(app: typer.Typer, command: Any) -> None:
    """Add a function, or a group of commands."""
    if isinstance(command, typer.Typer):
        app.add_typer(command)
    else:
        app.command()(command)
