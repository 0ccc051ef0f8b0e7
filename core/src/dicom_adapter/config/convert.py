"""The strict converter: converts TOML values to frozen attrs values, or raises all errors.

The converter is a cattrs converter. It raises exception groups of cattrs, whose notes contain the key or index of each
error; `problems.flatten` converts a group to a list of errors.
"""

from __future__ import annotations

import os
from collections import abc
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from enum import Enum
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import attrs
from cattrs import BaseValidationError, Converter, IterableValidationError
from cattrs.errors import IterableValidationNote

from dicom_adapter.api.settings import PipelineReference, Secret
from dicom_adapter.config import scalars
from dicom_adapter.config.names import LedgerUrl, Network, Refined, ledger_url, network
from dicom_adapter.config.problems import with_note
from dicom_adapter.config.references import pipeline_reference
from dicom_adapter.config.tables import structure_class

# The types of a field that accept a TOML list, with the type to which the list is converted.
SEQUENCES: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    abc.Set: frozenset,
    abc.MutableSequence: list,
    abc.Sequence: tuple,
    abc.Collection: tuple,
    abc.Iterable: tuple,
}
MAPPINGS = {dict, abc.Mapping, abc.MutableMapping}  # the types of a field that accept a TOML table
DATES_AND_TIMES = {datetime, date, time}  # TOML has these types


def make_converter(folder: Path, environ: Mapping[str, str] = os.environ) -> Converter:
    """Return a converter for a configuration file in `folder`."""
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)
    # cattrs tries the hooks for classes and their subclasses (such as `class Level(str, Enum)`) before the functions
    # below. Among the functions, the one registered last is tried first.
    for scalar in (bool, int, float, str, bytes, Enum):
        converter.register_structure_hook(scalar, scalars.scalar)
    converter.register_structure_hook(Path, lambda value, _: scalars.file_path(folder, value))
    converter.register_structure_hook(Secret, lambda value, _: scalars.secret(folder, environ, value))
    converter.register_structure_hook(PipelineReference, partial(pipeline_reference, converter))
    register = converter.register_structure_hook_func
    register(scalars.is_literal, scalars.literal)
    register(lambda t: t in DATES_AND_TIMES, _date_or_time)
    register(attrs.has, partial(structure_class, converter))
    register(lambda t: _base_type(t) in SEQUENCES, partial(_sequence, converter))
    register(lambda t: _base_type(t) in MAPPINGS, partial(_mapping, converter))
    register(lambda t: _base_type(t) in {Union, UnionType}, partial(_union, converter))
    register(lambda t: t == Network, lambda value, _: network(value))
    register(lambda t: _base_type(t) is Annotated, partial(_refined, converter))
    register(lambda t: t == LedgerUrl, lambda value, _: ledger_url(folder.absolute(), scalars.text(value)))
    return converter


def _base_type(type_: Any) -> Any:
    """Return the type without its arguments: `list` for `list` and for `list[int]`."""
    return get_origin(type_) or type_


def _date_or_time(value: Any, type_: type) -> Any:
    if type(value) is not type_:
        raise TypeError(f"must be a TOML {type_.__name__}, without quotes")
    return value


def _refined(converter: Converter, value: Any, type_: Any) -> Any:
    plain_type, *annotations = get_args(type_)
    result = converter.structure(value, plain_type)
    for annotation in annotations:
        if isinstance(annotation, Refined):
            result = annotation.rule(result)
    return result


def _union(converter: Converter, value: Any, type_: Any) -> Any:
    """Convert to `X` for `X | None`, because TOML has no null; otherwise to the first type that accepts the value."""
    options = [option for option in get_args(type_) if option is not type(None)]
    remaining: Any = Union[tuple(options)]  # noqa: UP007 - the options are known only at run time
    if len(options) == 1 or remaining == Network:  # `Network` is a union that has a converter
        return converter.structure(value, remaining)
    refusals = []
    for option in options:
        try:
            return converter.structure(value, option)
        except (ValueError, TypeError) as refusal:
            refusals.append(str(refusal))
        except BaseValidationError as refusal:
            if isinstance(value, (dict, list)):
                raise
            refusals.append(str(refusal))
    raise ValueError(", or ".join(dict.fromkeys(refusals)))


class _Elements:
    """Converts the elements of a list or table, and collects all their errors."""

    def __init__(self, converter: Converter, type_: Any) -> None:
        self.converter = converter
        self.type = type_
        self.errors: list[Exception] = []

    def convert(self, value: Any, type_: Any, index: int | str) -> Any:
        try:
            return self.converter.structure(value, type_)
        except Exception as error:  # noqa: BLE001 - a plugin's own types may raise anything
            self.add_error(error, type_, index)

    def add_error(self, error: Exception, type_: Any, index: int | str) -> None:
        self.errors.append(with_note(error, IterableValidationNote(f"at {index!r}", index, type_)))

    def raise_errors(self) -> None:
        if self.errors:
            raise IterableValidationError("elements are not valid", self.errors, self.type)


def _sequence(converter: Converter, value: Any, type_: Any) -> Any:
    if not isinstance(value, list):
        raise TypeError("must be a list in square brackets")
    types = _element_types(type_, len(value))
    elements = _Elements(converter, type_)
    converted = [elements.convert(element, types[index], index) for index, element in enumerate(value)]
    elements.raise_errors()
    return SEQUENCES[_base_type(type_)](converted)


def _element_types(type_: Any, length: int) -> list[Any]:
    arguments = get_args(type_) or (Any,)
    if get_origin(type_) is not tuple or arguments[1:] == (...,):
        return [arguments[0]] * length
    if len(arguments) != length:
        raise ValueError(f"must have {len(arguments)} elements")
    return list(arguments)


def _mapping(converter: Converter, value: Any, type_: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError("must be a table")
    key_type, value_type = get_args(type_) or (str, Any)
    elements = _Elements(converter, type_)
    found: dict[Any, Any] = {}
    written: dict[Any, str] = {}  # the text of each key in the file: different texts may be the same key
    for text, element in value.items():
        converted = elements.convert(element, value_type, text)
        known_errors = len(elements.errors)
        key = elements.convert(text, key_type, text)
        if len(elements.errors) > known_errors:
            continue
        if key in written:
            duplicate = ValueError(f"must not be given twice: {written[key]!r} and {text!r} are the same key")
            elements.add_error(duplicate, key_type, text)
        found[key] = converted
        written.setdefault(key, text)
    elements.raise_errors()
    return found
