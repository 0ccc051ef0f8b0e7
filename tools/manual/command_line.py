"""A page of all commands with their arguments and options, generated from the command line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import click
import typer.main

from dicom_adapter.cli import app
from dicom_adapter.plugins.registry import PluginInfo, discover
from manual.hooks import escaped

INTRODUCTION = """# Every command and option

The `--help` texts of all commands. [Commands](../commands.md) describes what they do, print and return.
"""


def page() -> str:
    """Return the page, with a section for each command."""
    return INTRODUCTION + "".join(section(name, command) for name, command in commands().items())


def commands() -> Mapping[str, click.Command]:
    """Return all commands and groups of the adapter and of the installed plugins, by name."""
    return dict(_below(typer.main.get_command(app))) | dict(_below(typer.main.get_command(_plugin_commands())))


def _below(group: Any, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if hasattr(command, "commands"):
            yield from _below(command, *path, name)


def _plugin_commands() -> typer.Typer:
    """Return the commands of plugins, in a separate command line."""
    found = typer.Typer()
    found.callback()(lambda: None)
    for command in discover().commands(_failed):
        if isinstance(command, typer.Typer):
            found.add_typer(command)
        else:
            found.command()(command)
    return found


def _failed(plugin: PluginInfo, hook: str, failure: BaseException) -> None:
    raise RuntimeError(f"{plugin}: {hook} failed, so that its commands cannot be described") from failure


def section(name: str, command: click.Command) -> str:
    """Return the section of a command: usage, help, and a row for each argument and option."""
    context = click.Context(command, info_name=f"dicom-adapter {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    records = [param.get_help_record(context) for param in command.params]
    rows = [_row(*record) for record in records if record is not None]
    table = f"| | |\n|---|---|\n{''.join(rows)}\n" if rows else ""
    level = "#" * (1 + len(name.split()))
    text = escaped(inspect.cleandoc(command.help or ""))
    return f"\n{level} {name}\n\n```text\ndicom-adapter {name} {usage}\n```\n\n{text}\n\n{table}"


def _row(option: str, text: str) -> str:
    meaning = escaped(" ".join(text.split())).replace("|", "\\|")
    return f"| `{option}` | {meaning} |\n".replace("|]", "\\|]")
