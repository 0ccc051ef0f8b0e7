"""Descriptions of the types, rules and defaults of settings in the reference."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs

from dicom_adapter import ByteSize, PipelineReference, Secret
from dicom_adapter.config import names, notifications, transfer_syntaxes
from dicom_adapter.config.model import CallerConfig
from dicom_adapter.config.scalars import format_size

PLAIN: Mapping[Any, str] = {
    Any: "table",
    bool: "`true`, `false`",
    int: "whole number",
    float: "number",
    str: "text",
    ByteSize: "size",
    CallerConfig: "AE title or table",
    PipelineReference: "text or table",
    Secret: "secret",
    Path: "path",
    IPv4Network: "IP address or network",
    IPv6Network: "IP address or network",
}
REFINED = {
    names.ae_title: "AE title",
    names.address: "IP address",
    names.keyword: "DICOM keyword",
    names.submitter_name: "name",
    names.token_name: "name",
    names.uid: "UID",
    notifications.time_of_day: "time",
    notifications.time_span: "time span",
    notifications.time_zone: "time zone",
    transfer_syntaxes.transfer_syntax: "UID",
}


def type_words(type_: Any) -> str:
    """Return the description of a type, such as "list of UIDs"."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return _refined(*arguments)
    if origin in (Union, UnionType):
        return ", ".join(dict.fromkeys(type_words(each) for each in arguments if each is not NoneType))
    if origin is Literal:
        return _choices(arguments)
    if isinstance(type_, type) and issubclass(type_, Enum):
        return _choices([member.value for member in type_])
    if isinstance(origin, type):
        return _collection(origin, arguments)
    return "table" if attrs.has(type_) and type_ not in PLAIN else _plain(type_)


def _refined(type_: Any, *marks: Any) -> str:
    rules = [REFINED[mark.rule] for mark in marks if isinstance(mark, names.Refined) and mark.rule in REFINED]
    return rules[0] if rules else type_words(type_)


def _choices(values: Any) -> str:
    return ", ".join(f"`{json.dumps(value)}`" for value in values)


def _collection(origin: type, arguments: tuple[Any, ...]) -> str:
    if arguments[1:] == (Any,):
        return "table"
    if isinstance(arguments[0], type) and issubclass(arguments[0], Enum):
        return f"list of {type_words(arguments[0])}"
    kind, of = ("table", arguments[1]) if issubclass(origin, Mapping) else ("list", arguments[0])
    return f"{kind} of {' or '.join(_plural(word) for word in re.split(', | or ', type_words(of)))}"


def _plural(word: str) -> str:
    return f"{word}{'es' if word.endswith('s') else 's'}"


def _plain(type_: Any) -> str:
    for base in getattr(type_, "__mro__", (type_,)):
        if base in PLAIN:
            return PLAIN[base]
    return "text"


def rule_words(field: attrs.Attribute[Any]) -> str:
    """Return the rules for the value: the first lines of its validators' docstrings."""
    return "; ".join(inspect.getdoc(each).split("\n")[0] for each in _validators(field.validator) if each.__doc__)  # type: ignore[union-attr] # it has one


def _validators(validator: Any) -> Iterator[Any]:
    """Yield the single functions of a combination of attrs validators."""
    several = getattr(validator, "_validators", None) or getattr(validator, "validator", None)
    if several is not None:
        for each in several if isinstance(several, tuple) else (several,):
            yield from _validators(each)
    elif validator is not None:
        yield validator


def default_words(field: attrs.Attribute[Any]) -> str:
    """Return the description of the default."""
    default: Any = field.default
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type] # it is a class at run time
        default = default.factory()
        return "all defaults" if attrs.has(type(default)) else "none"
    if default is None:
        return "none"
    if isinstance(default, ByteSize) and default:
        return f'`"{format_size(default)}"`'
    default = default.value if isinstance(default, Enum) else default
    if isinstance(default, float):
        return f"`{default:.15g}`"
    return "`[]`" if default == () else f"`{json.dumps(default)}`"
