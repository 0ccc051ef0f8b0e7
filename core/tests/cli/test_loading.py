"""Imports of a command: only its own module, and no plugin or heavy library that the command does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from types import FunctionType

import pytest
from typer import Typer

from dicom_adapter.cli import COMMANDS, CommandEntry

LOADED = """
import json, sys
from dicom_adapter import cli
sys.argv = ["dicom-adapter", *{arguments!r}]
try:
    cli.main()
except SystemExit:
    pass
print("\\n" + json.dumps(sorted(sys.modules)))
"""
HEAVY = {"alembic", "litestar", "pydicom", "pynetdicom", "sqlalchemy"}


def modules_of(*arguments: str) -> set[str]:
    """Return the modules that a call of the command line imports."""
    command = [sys.executable, "-c", LOADED.format(arguments=list(arguments))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_version_is_shown_without_importing_commands() -> None:
    """Verified to fail when the command line imports all commands."""
    loaded = modules_of("--version")
    assert set() == loaded & HEAVY
    assert [] == [entry.name for entry in COMMANDS if f"dicom_adapter.cli.{entry.module}" in loaded]


def test_a_command_imports_no_other_command() -> None:
    """Verified to fail when the command line imports all commands."""
    loaded = modules_of("jobs", "list", "--help")
    others = {entry.module for entry in COMMANDS} - {"jobs"}
    assert [] == [module for module in sorted(others) if f"dicom_adapter.cli.{module}" in loaded]
    assert set() == loaded & (HEAVY - {"sqlalchemy"})


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_every_command_can_be_loaded(entry: CommandEntry) -> None:
    """The module of a command has a function or a group with the name of the command."""
    assert isinstance(entry.load(), (FunctionType, Typer))


def test_help_lists_the_commands_of_plugins_without_importing_their_components() -> None:
    """Verified to fail when the components of all plugins are registered."""
    loaded = modules_of("--help")
    assert set() == loaded & {"pydicom", "pynetdicom"}
