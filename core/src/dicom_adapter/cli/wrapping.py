"""Lines of text that wrap at the width of the terminal. Ids and commands are never cut or broken."""

from __future__ import annotations

import re
import shutil
import textwrap

WIDEST = 100  # maximum number of columns; longer lines are hard to read
COMMAND = re.compile("`[^`]*`")
OURS = re.compile("(`dicom-adapter [^`]*)`")  # a command of this program
SPACE = "\0"  # a space within a command, while the text is wrapped
INDENT = "    "
MARGIN = 18  # width of the left column of titles


def wrap(text: str, columns: int, first: str = "", others: str = "") -> list[str]:
    """Wrap a text at spaces only, and not within a `command`. A longer word or command makes its line longer."""
    whole = COMMAND.sub(lambda match: match[0].replace(" ", SPACE), text)
    lines = textwrap.wrap(
        whole, columns, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(SPACE, " ") for line in lines]


def with_options(text: str, options: str) -> str:
    """Add options, such as ` -c adapter.toml`, to each `dicom-adapter` command in a text."""
    return OURS.sub(lambda match: f"{match[1]}{options}`", text)


def wrapped(text: str, first: str = INDENT, others: str = INDENT) -> list[str]:
    """Wrap an indented text at the width of the terminal."""
    return wrap(text, width(), first, others)


def titled(title: str, text: str) -> list[str]:
    """Return the lines of a text with its title in the left column; no lines if the text is empty."""
    return wrapped(text, f"{title:{MARGIN}}", " " * MARGIN) if text else []


def width() -> int:
    """Return the number of columns to use."""
    return min(shutil.get_terminal_size().columns, WIDEST)
