"""All commands find their configuration file in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from dicom_adapter.cli import app

WITHOUT = {"demo", "init", "send", "echo", "synthesize"}  # commands that use no configuration
OPTIONAL = {"plugins", "doctor"}  # commands that also work without a configuration
ARGUMENTS = {
    "backup": ["folder"],
    "restore": ["."],
    "explain": ["1.2.3"],
    "simulate": ["schedule.toml"],
    "jobs show": ["abc"],
    "jobs retry": ["abc"],
    "jobs cancel": ["abc"],
    "instances show": ["1"],
    "instances requeue": ["1"],
    "instances discard": ["1", "--yes"],
    "instances export": ["1", "--to", "folder"],
    "results show": ["1"],
    "results export": ["1", "--to", "folder"],
    "results requeue": ["1"],
    "results discard": ["1", "--yes"],
    "notifications test": ["mail"],
    "ae-titles restart": ["LUNG"],
    "ae-titles end-wait": ["LUNG", "--study", "1.2.3"],
}
FAILS_WITH_2 = {"audit", "backup", "restore"}  # commands whose exit status 1 has another meaning
NOT_UTF_8 = b"\xff"  # causes an error that names the file


def leaves(group: Any, *path: str) -> Iterator[str]:
    """Yield the name of each command that has no subcommands, such as `jobs list`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, *path, name)
        else:
            yield " ".join((*path, name))


COMMANDS = sorted(set(leaves(typer.main.get_command(app))) - WITHOUT)
# Commands that accept the file also as their only argument; the arguments of `doctor` are plugins
BOTH_WAYS = sorted(set(COMMANDS) - ARGUMENTS.keys() - {"doctor"})
every_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DICOM_ADAPTER_CONFIG", raising=False)


def call(command: str, *more: str) -> Result:
    return CliRunner().invoke(app, [*command.split(), *ARGUMENTS.get(command, []), *more])


def unreadable(path: str) -> str:
    """Write a configuration file that no command can read; return its path."""
    Path(path).write_bytes(NOT_UTF_8)
    return path


def reads(path: str, result: Result) -> bool:
    """Return whether the command has read this unreadable file, according to its error."""
    return result.exit_code in (1, 2) and f"error: {path}: not UTF-8" in result.stderr


@every_command
def test_the_option_selects_the_file(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option takes precedence over the environment variable and the file in the current folder."""
    monkeypatch.setenv("DICOM_ADAPTER_CONFIG", "variable.toml")
    unreadable("dicom-adapter.toml")
    assert reads("named.toml", call(command, "--config", unreadable("named.toml")))
    assert reads("named.toml", call(command, "-c", "named.toml"))


@pytest.mark.parametrize("command", BOTH_WAYS)
def test_the_argument_selects_the_file(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument takes precedence over the environment variable.

    Option and argument must not name different files.
    """
    monkeypatch.setenv("DICOM_ADAPTER_CONFIG", "variable.toml")
    assert reads("named.toml", call(command, unreadable("named.toml")))
    assert reads("named.toml", call(command, "named.toml", "-c", "named.toml"))
    both = call(command, "named.toml", "-c", "other.toml")
    assert (2, True) == (both.exit_code, "two configuration files" in both.stderr)


@every_command
def test_the_environment_variable_has_precedence_over_the_current_folder(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable counts as not set."""
    unreadable("dicom-adapter.toml")
    monkeypatch.setenv("DICOM_ADAPTER_CONFIG", unreadable("variable.toml"))
    assert reads("variable.toml", call(command))
    monkeypatch.setenv("DICOM_ADAPTER_CONFIG", "")
    assert reads("dicom-adapter.toml", call(command))


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - OPTIONAL))
def test_without_a_file_the_error_names_all_places(command: str, tmp_path: Path) -> None:
    result = call(command)
    assert (2 if command in FAILS_WITH_2 else 1) == result.exit_code
    assert result.stderr.startswith("error: no configuration file: none was named, DICOM_ADAPTER_CONFIG is not set, ")
    next_step = "name the file with --config, or write one with `dicom-adapter init`"
    assert f"{tmp_path} has no dicom-adapter.toml; {next_step}\n" in result.stderr


def test_simulate_accepts_the_file_as_its_first_argument() -> None:
    assert reads("named.toml", CliRunner().invoke(app, ["simulate", unreadable("named.toml"), "schedule.toml"]))
