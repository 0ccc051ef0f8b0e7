"""Commands of plugins. Each command is checked separately: an invalid command does not affect other commands."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import typer

from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.messages import warn
from dicom_adapter.plugins import commands
from dicom_adapter.plugins.registry import PluginInfo, Plugins
from dicom_adapter.runtime.deadline import TookTooLong


def add_commands(app: typer.Typer, found: Plugins, reserved: Collection[str]) -> None:
    """Add the commands of plugins. Omit the commands of a plugin that cannot be used, and print a warning.

    `reserved`: the names of the adapter's own commands, which a plugin cannot use.
    """
    for command in found.commands(_failed, partial(commands.check, reserved=reserved)):
        commands.add(app, command)


def _failed(plugin: PluginInfo, hook: str, failure: BaseException) -> None:
    is_self_explanatory = isinstance(failure, (TookTooLong, Refused))
    warn(f"{plugin}: {hook} failed: {failure if is_self_explanatory else f'{type(failure).__name__}: {failure}'}")
