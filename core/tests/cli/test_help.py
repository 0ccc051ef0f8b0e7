"""`--help` in a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dicom_adapter.cli import app

COLUMNS = 80


def commands_of(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command with its names, as a user types them: the groups, and their commands."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands_of(command, *path, name)


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in commands_of(get_command(app))]
)
def test_help_shows_every_name_in_full_and_no_type_of_a_flag(path: tuple[str, ...], command: Any) -> None:
    """Every option and command has its whole name, no summary is cut, and all lines fit in 80 columns.

    Verified to fail with the boxes of rich, which show `--association-per-s…` and `<bool>`, and with the class of
    commands of typer, which shows `<list[str]>`, `[[CONFIG]]` and `1<=x<=9999`.
    """
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": str(COLUMNS)}).stdout
    words = shown.replace(",", " ").split()
    names = [name for parameter in command.params for name in parameter.opts if name.startswith("-")]
    assert [] == [name for name in [*names, *getattr(command, "commands", {})] if name not in words]
    assert [] == re.findall(r"<[a-z]|[\[{]{2}|\b(?:bool|INTEGER|FLOAT)\b|x[<>]=", shown)  # types of Python
    assert not shown.rstrip().endswith("...")
    assert [] == [line for line in shown.splitlines() if line.endswith(("...", "…")) and not line.startswith("Usage")]
    assert [] == [line for line in shown.splitlines() if len(line) > COLUMNS]
