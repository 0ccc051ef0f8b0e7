"""`--help` of commands: arguments as users type them, ranges of numbers in words."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperCommand

BOTH_LIMITS = re.compile(r"(\d[\d.]*)<=x<=(\d[\d.]*)")
LOWER_LIMIT = re.compile(r"x>=(\d[\d.]*)")


class PlainCommand(TyperCommand):
    """A command whose help shows neither types of Python nor nested brackets, in every version of typer."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the name of the command."""
        pieces = [self.options_metavar] if self.options_metavar else []
        return [*pieces, *(_usage(one) for one in self.get_params(ctx) if one.param_type_name == "argument")]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options, each with its help."""
        sections: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None:
                title = _name(one) if one.param_type_name == "argument" else record[0]
                sections[one.param_type_name].append((title, _ranges(record[1])))
        for title, rows in (("Arguments", sections["argument"]), ("Options", sections["option"])):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def use_plain_commands(group: typer.Typer) -> None:
    """Make `PlainCommand` the class of all commands of a group that have no class of their own."""
    for command in group.registered_commands:
        if command.cls in (None, TyperCommand):
            command.cls = PlainCommand
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            use_plain_commands(inner.typer_instance)


def _name(argument: Any) -> str:
    """Return the name of an argument, without the brackets and dots that `_usage` adds."""
    name = str(argument.metavar or argument.name.upper()).rstrip("….")
    return name[1:-1] if re.fullmatch(r"\[\w+\]", name) else name


def _usage(argument: Any) -> str:
    name = _name(argument)
    if " " in name:
        return name  # it names several arguments
    more = "..." if argument.nargs != 1 else ""
    return f"{name}{more}" if argument.required else f"[{name}]{more}"


def _ranges(text: str) -> str:
    return LOWER_LIMIT.sub(r"at least \1", BOTH_LIMITS.sub(r"\1 to \2", text))
