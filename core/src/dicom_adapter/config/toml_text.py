"""Parse the text of a configuration file. Messages about common mistakes have the line and the correction."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import tomli
from attrs import frozen

Names: TypeAlias = tuple[str, ...]  # path of a table or key

POSITION = re.compile(r"at line (\d+)")  # in messages of tomli
DECLARED_TWICE = re.compile(r"Cannot declare (\(.*\)) twice")
BARE = re.compile(r"[A-Za-z0-9_-]+")
HEADER = re.compile(r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(?:#.*)?")
HEADER_PART = re.compile(r"""\s*("[^"]*"|'[^']*'|[^."']+)\s*(?:\.|$)""")
ASSIGNMENT = re.compile(r"\s*([^\s=#\[{][^=#]*?)\s*=")
YAML_KEY = re.compile(r"""\s*(?:- )?(["']?)([\w.-]+)\1\s*:(?:\s|$)""")
UNQUOTED = re.compile(r"[^=]*=\s*([^\s\"'\[{#=][^#]*)")
# Beginnings of the messages of tomli about a backslash.
ESCAPE_MESSAGES = ("Unescaped '\\'", "Invalid hex value", "Escaped character is not")


def parse(text: str | bytes) -> dict[str, Any]:
    """Return the document. Raises ValueError with the position of the first error."""
    if isinstance(text, bytes):
        text = _decode(text)
    text = text.removeprefix("\ufeff")
    try:
        return tomli.loads(text)
    except RecursionError:
        raise ValueError("the file is not usable: its lists or tables are nested too deeply") from None
    except ValueError as error:  # raised by tomli, and by Python for integers of thousands of digits
        raise ValueError(f"the file is not TOML: {_explain(text, str(error))}") from None


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"the file is not UTF-8: see line {line}, byte {data[error.start]:#04x}") from None


# --- mistakes ---------------------------------------------------------------------------------------------------------


@frozen
class _SyntaxError:
    """A message of tomli, and the line that it is about."""

    lines: list[str]  # lines of the file
    number: int  # number of the line, counted from 1
    message: str

    @property
    def line(self) -> str:
        return self.lines[self.number - 1]


def _explain(text: str, message: str) -> str:
    """Return the message for an error, with a correction if the mistake is a common one."""
    lines = text.splitlines() or [""]
    position = POSITION.search(message)
    if position is not None and int(position[1]) <= len(lines):
        error = _SyntaxError(lines, int(position[1]), message)
        for mistake in MISTAKES:
            explanation = mistake(error)
            if explanation:
                return explanation
    end = f"at the end of the file, line {len(lines)}, column {len(lines[-1]) + 1}"
    return message.replace("at end of document", end)


def _other_format(error: _SyntaxError) -> str:
    """Recognize JSON and YAML by the first line that has more than a comment."""
    number, first = next(
        ((n, line) for n, line in enumerate(error.lines, 1) if line.strip() and not line.lstrip().startswith("#")),
        (0, ""),
    )
    if first.lstrip().startswith("{"):
        return 'it looks like JSON. In TOML, {"dicom": {"port": 11112}} is a line [dicom] and a line port = 11112'
    is_yaml = first.strip() == "---" or YAML_KEY.match(first)
    if number == error.number and is_yaml:
        return "it looks like YAML. In TOML, a table begins with a line [dicom], and a key is set by port = 11112"
    return ""


def _colon(error: _SyntaxError) -> str:
    found = YAML_KEY.match(error.line)
    if found is None or "Expected '='" not in error.message:
        return ""
    return f"line {error.number}: write {found[2]} = … with an equals sign instead of the colon"


def _unquoted_name(error: _SyntaxError) -> str:
    """Recognize a table header that has a name with spaces or other special characters, without quotes."""
    header = HEADER.fullmatch(error.line)
    if header is None or "table declaration" not in error.message:
        return ""
    parts = [part.strip() for part in HEADER_PART.findall(header[1])]
    quoted = ".".join(part if BARE.fullmatch(part) or part[:1] in "\"'" else f'"{part}"' for part in parts)
    return (
        f"line {error.number}: write [{quoted}], because names with other characters than A-Z, a-z, 0-9, '-' and '_' "
        "need quotes"
    )


def _backslash(error: _SyntaxError) -> str:
    if not error.message.startswith(ESCAPE_MESSAGES):
        return ""
    return (
        f"line {error.number}: in double quotes, a backslash begins an escape sequence; use single quotes: 'C:\\data'"
    )


def _table_twice(error: _SyntaxError) -> str:
    found = DECLARED_TWICE.match(error.message)
    if found is None:
        return ""
    table: Names = literal_eval(found[1])
    first = next((entry for entry in _entries(error.lines[: error.number - 1]) if entry.sets(table)), None)
    if first is None:
        return ""
    written = toml_name(table)
    by_key = "" if first.is_header else f" with the key {first.key}"
    return (
        f"the table [{written}] is defined in line {first.number}{by_key}, and again in line {error.number}; merge both"
    )


def _key_twice(error: _SyntaxError) -> str:
    if not error.message.startswith("Cannot overwrite a value"):
        return ""
    entries = [entry for entry in _entries(error.lines[: error.number]) if not entry.is_header]
    last = entries[-1] if entries else None
    first = next((entry for entry in entries[:-1] if last is not None and entry.names == last.names), None)
    if last is None or first is None:
        return ""
    return f"the key {last.key} is set in line {first.number}, and again in line {last.number}; keep one of them"


def _missing_quotes(error: _SyntaxError) -> str:
    found = UNQUOTED.fullmatch(error.line)
    if found is None or not error.message.startswith(("Invalid value", "Expected newline or end of document")):
        return ""
    written = found[1].strip()
    if written.casefold() in {"true", "false"}:
        return f"line {error.number}: write {written.casefold()} in lower case"
    return f'line {error.number}: write a text in straight double quotes, such as "5 GB"'


MISTAKES: tuple[Callable[[_SyntaxError], str], ...] = (
    _other_format,
    _colon,
    _unquoted_name,
    _backslash,
    _table_twice,
    _key_twice,
    _missing_quotes,
)


# --- lines with names -------------------------------------------------------------------------------------------------


@frozen
class _Entry:
    """A line that begins a table or sets a key."""

    number: int
    names: Names  # path from the top level of the file
    key: str  # "" for a table header

    @property
    def is_header(self) -> bool:
        return not self.key

    def sets(self, table: Names) -> bool:
        """Return whether the line declares this table. Dotted keys declare the tables in their path."""
        return self.names == table if self.is_header else self.names[: len(table)] == table


def _entries(lines: list[str]) -> Iterator[_Entry]:
    table: Names = ()
    for number, line in enumerate(lines, start=1):
        if HEADER.fullmatch(line):
            table = _names(line)
            yield _Entry(number, table, "")
        elif key := ASSIGNMENT.match(line):
            yield _Entry(number, (*table, *_names(f"{key[1]} = 0")), key[1])


def _names(statement: str) -> Names:
    """Return the path that a statement sets; () if the statement alone is not TOML, such as a line of a text."""
    try:
        found: Any = tomli.loads(statement)
    except ValueError:
        return ()
    names: list[str] = []
    while found := found[0] if isinstance(found, list) else found:
        [(name, found)] = found.items()
        names.append(name)
    return tuple(names)


def toml_name(names: Names) -> str:
    """Return a path as TOML writes it."""
    return ".".join(name if BARE.fullmatch(name) else f'"{name}"' for name in names)
