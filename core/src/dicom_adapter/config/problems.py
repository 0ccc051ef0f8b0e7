"""Problems of a configuration: their place in the file, rule and next step, without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin

import attrs
from attrs import field, frozen
from cattrs import BaseValidationError
from cattrs.errors import AttributeValidationNote, IterableValidationNote

from dicom_adapter.api.settings import Secret
from dicom_adapter.config.names import Undisclosed

SHOWN_CHARACTERS = 60  # number of characters of a value in a message: enough to find the value in the file
SUBJECTS = {"ae-titles": "AE title", "submitters": "submitter"}
BARE_KEY = re.compile(r"[A-Za-z0-9_<>-]+")  # bare keys of TOML, and patterns of missing keys, such as pipeline-<name>

Where: TypeAlias = tuple[str | int, ...]
Note: TypeAlias = AttributeValidationNote | IterableValidationNote
ErrorT = TypeVar("ErrorT", bound=Exception)


class ConfigProblemKind(str, Enum):
    """The consequence of a problem."""

    INVALID = "invalid"  # the service cannot start
    UNAVAILABLE = "unavailable"  # the service starts without the AE titles that need the missing plugin


@frozen(kw_only=True)
class ConfigProblem:
    """One problem of a configuration. `str` returns subject, value, rule and next step."""

    where: Where = ()  # place of the value: keys and 0-based list indices, from the top level of the file
    message: str  # rule and next step; it continues the sentence after the value: "port = 7," + "must be …"
    value: str = ""  # the value as text; "" if the value is missing or must not be shown
    kind: ConfigProblemKind = field(default=ConfigProblemKind.INVALID)

    @property
    def path(self) -> str:
        """Path of the value in the file, such as `ae-titles.LUNG.allowed-callers[1].host`."""
        return _dotted(self.where)

    def __str__(self) -> str:
        subject, rest = _subject(self.where)
        value = f" = {self.value}," if self.value else ""
        return f"{subject}{rest}{value} {self.message}".strip()


@frozen
class ConversionError:
    """An error of the converter and its place in the file."""

    where: Where
    message: str
    may_be_secret: bool  # the value may contain a secret
    kind: type[Exception]

    def problem(self, document: Mapping[str, Any]) -> ConfigProblem:
        value = "" if self.may_be_secret else format_value(value_at(document, self.where))
        return ConfigProblem(where=self.where, message=self.message, value=value)


def flatten(error: Exception, where: Where = (), *, may_be_secret: bool = False) -> Iterator[ConversionError]:
    """Yield the errors in the exception groups of the converter.

    `may_be_secret`: the value at `where` may contain a secret.
    """
    note = _note(error)
    if note is not None:
        where = (*where, note.name if isinstance(note, AttributeValidationNote) else note.index)
        may_be_secret = may_be_secret or may_contain_secret(note.type)
    if isinstance(error, BaseValidationError):
        for part in error.exceptions:
            yield from flatten(part, where, may_be_secret=may_be_secret)
    else:
        may_be_secret = may_be_secret or (note is not None and _is_table(note.type))
        yield ConversionError(where, message(error), may_be_secret, type(error))


def with_note(error: ErrorT, note: Note) -> ErrorT:
    """Attach a cattrs note to the error and return it. `BaseException.add_note` needs Python 3.11."""
    vars(error).setdefault("__notes__", []).append(note)
    return error


def _note(error: Exception) -> Note | None:
    notes = [
        n for n in getattr(error, "__notes__", ()) if isinstance(n, (AttributeValidationNote, IterableValidationNote))
    ]
    return notes[-1] if notes else None


def message(error: Exception) -> str:
    """Return the message of an error. Errors of attrs validators have more arguments than the message."""
    if len(error.args) > 1 and isinstance(error.args[1], attrs.Attribute):
        return str(error.args[0])
    return str(error) if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: {error}"


def may_contain_secret(type_: Any) -> bool:
    """Return whether values of this type, or parts of them, may contain a secret."""
    if isinstance(type_, type) and issubclass(type_, Secret):
        return True
    if get_origin(type_) is Annotated and any(isinstance(note, Undisclosed) for note in get_args(type_)):
        return True
    return any(may_contain_secret(argument) for argument in get_args(type_))


def _is_table(type_: Any) -> bool:
    """Return whether the type is a table.

    If a user writes a text in place of a table, such as `tls = "…"`, the text may be a secret that belongs in the
    table.
    """
    if get_origin(type_) is Annotated:
        return _is_table(get_args(type_)[0])
    return attrs.has(type_) or any(_is_table(argument) for argument in get_args(type_))


def mask_secrets(text: str, value: Any) -> str:
    """Return the text without the secrets that `value` contains."""
    for secret in sorted(set(_secrets(value)), key=len, reverse=True):
        text = text.replace(str(secret), "…")
    return text


def _secrets(value: Any) -> Iterator[Secret]:
    if isinstance(value, Secret) and value:
        yield value
    elif attrs.has(type(value)):
        for attribute in attrs.fields(type(value)):
            yield from _secrets(getattr(value, attribute.name))
    elif isinstance(value, (Mapping, Sequence, set, frozenset)) and not isinstance(value, (str, bytes)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _secrets(part)


def format_value(value: Any) -> str:
    """Return a value for a message, or "" for a missing value, a table, or a list that contains a table.

    A table may contain a secret in an unexpected place.
    """
    if value is None or isinstance(value, dict):
        return ""
    if isinstance(value, list) and any(format_value(part) == "" for part in value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except ValueError:  # Python does not convert integers of thousands of digits
        return "a very large number"
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def value_at(document: Any, where: Where) -> Any:
    """Return the value at a place of the document; None if the place does not exist."""
    for step in where:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _subject(where: Where) -> tuple[str, str]:
    if len(where) >= 2 and where[0] in SUBJECTS:
        rest = _dotted(where[2:])
        return f"{SUBJECTS[str(where[0])]} {_cut(repr(where[1]))}:", f" {rest}" if rest else ""
    return "", _dotted(where)


def _dotted(where: Where) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{_key(step)}" for step in where)
    return "".join(steps).removeprefix(".")


def _key(step: str) -> str:
    return step if BARE_KEY.fullmatch(step) else _cut(json.dumps(step))
