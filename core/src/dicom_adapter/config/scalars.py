"""Conversion of single TOML values: each type accepts only values of its own TOML type.

Messages are the end of a sentence that begins with a key and its value, such as "must be a whole number".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args

from dicom_adapter.api.settings import ByteSize, Secret
from dicom_adapter.config.suggest import suggestion

LARGEST = 2**63 - 1  # TOML, databases and operating systems have integers of 64 bits
BYTES = re.compile(r"(\d{1,19}(?:\.\d{1,9})?) *([kKMGTP]i?)?B?", re.ASCII)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
POWERS = {"k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}  # powers of 1000 or 1024, by the first letter of the unit


def boolean(value: Any) -> bool:
    """Accept true and false."""
    if type(value) is not bool:
        raise TypeError("must be true or false, without quotes")
    return value


def whole_number(value: Any) -> int:
    """Accept integers of 64 bits."""
    if type(value) is not int:
        raise TypeError("must be a whole number, without quotes")
    if not -LARGEST - 1 <= value <= LARGEST:
        raise ValueError("must be a whole number of at most 64 bits")
    return value


def number(value: Any) -> float:
    """Accept integers and finite floats."""
    if type(value) is not float:
        if type(value) is not int:
            raise TypeError("must be a number, without quotes")
        return float(whole_number(value))
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def text(value: Any) -> str:
    """Accept texts."""
    if type(value) is not str:
        raise TypeError("must be a text in quotes")
    return value


def byte_size(value: Any) -> ByteSize:
    """Accept a number of bytes, or a text with a unit."""
    if type(value) is not str:
        if type(value) is not int:
            raise TypeError('must be a number of bytes or a text such as "5 GB" or "512 MiB"')
        return ByteSize(whole_number(value))
    found = BYTES.fullmatch(value.strip())
    if not found:
        raise ValueError('must be a size such as "5 GB" or "512 MiB"')
    digits, unit = found[1], found[2] or ""
    factor = (1024 if unit.endswith("i") else 1000) ** POWERS.get(unit[:1], 0)
    return ByteSize(whole_number(int(Decimal(digits) * factor)))


def format_size(size: int) -> str:
    """Return the shortest text for exactly this size, such as `5 GB` or `512 MiB`; if no unit fits, the number."""
    for base, suffix in ((1000, "B"), (1024, "iB")):
        for letter in "PTGMk":
            unit = base ** POWERS[letter]
            if size and size % unit == 0:
                return f"{size // unit} {letter.upper() if base == 1024 else letter}{suffix}"  # kB, but KiB
    return str(size)


def file_path(folder: Path, value: Any) -> Path:
    """Accept a path. Relative paths start at `folder`; `~` is the home of the service's user."""
    written = text(value)
    if not written or "\0" in written:
        raise ValueError("must be a path")
    if CONTROL.search(written):
        raise ValueError(
            "must not contain control characters; in double quotes, a backslash begins an escape sequence, such as \\t "
            "for a tab: use single quotes"
        )
    try:
        return folder / Path(written).expanduser()
    except RuntimeError as error:
        raise ValueError("must not begin with '~' for a user without a home folder; write the whole path") from error


def secret(folder: Path, environ: Mapping[str, str], value: Any) -> Secret:
    """Return a secret from its source: {env = "NAME"} or {file = "path"}."""
    if isinstance(value, str):
        raise TypeError('must not be in this file: name its source, {env = "NAME"} or {file = "path"}')
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"env", "file"}:
        raise TypeError('must be {env = "NAME"} or {file = "path"}')
    source, where = next(iter(value.items()))
    if not isinstance(where, str) or not where:
        raise TypeError(f"must be a table whose {source} is a text in quotes")
    found = _from_environment(environ, where) if source == "env" else _from_file(file_path(folder, where))
    if not found:
        raise ValueError(f"must not be empty; {source} {where!r} is empty")
    return Secret(found)


def _from_environment(environ: Mapping[str, str], name: str) -> str:
    if name not in environ:
        raise ValueError(f"must come from the environment variable {name!r}, which is not set")
    return environ[name]


def _from_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"must come from the file {str(path)!r}, which is not UTF-8 text") from None
    except OSError as error:
        problem = f"must come from the file {str(path)!r}: {error.strerror}"
        raise ValueError(f"{problem}; the file must exist, and the service's user must be able to read it") from error


def one_of(value: Any, allowed: Mapping[Any, Any]) -> Any:
    """Return the result that `allowed` has for a value. Types are compared, too: 1 is neither true nor 1.0."""
    for candidate, result in allowed.items():
        if type(candidate) is type(value) and candidate == value:
            return result
    names = [str(candidate) for candidate in allowed]
    raise ValueError(f"must be one of {', '.join(names)}{suggestion(value, names)}")


def choice(value: Any, type_: type[Enum]) -> Any:
    """Return a member of an enumeration by its value."""
    return one_of(value, {member.value: member for member in type_})


def literal(value: Any, type_: Any) -> Any:
    """Accept a value of a `Literal`."""
    return one_of(value, {allowed: allowed for allowed in get_args(type_)})


PLAIN: dict[type, Callable[[Any], Any]] = {
    bool: boolean,
    int: whole_number,
    float: number,
    str: text,
    ByteSize: byte_size,
}


def scalar(value: Any, type_: type[Any]) -> Any:
    """Convert to bool, int, float, str, ByteSize, an Enum, or a plugin's subclass of one of them."""
    if issubclass(type_, Enum):
        return choice(value, type_)
    if type_ in PLAIN:
        return PLAIN[type_](value)
    for base in type_.__mro__:
        if base in PLAIN:
            return type_(PLAIN[base](value))
    raise TypeError(f"cannot be read: TOML has no {type_.__name__}")


def is_literal(type_: Any) -> bool:
    return getattr(type_, "__origin__", None) is Literal
