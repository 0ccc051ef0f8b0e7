"""Conversion of TOML tables to attrs classes.

The key `max-pdu` sets the field `max_pdu`. A field with a prefix collects all keys with that prefix. All errors of a
table are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

import attrs
from cattrs import BaseValidationError, ClassValidationError, Converter
from cattrs.errors import AttributeValidationNote

from dicom_adapter.api.settings import HELP, PREFIX, ByteSize
from dicom_adapter.config.names import Undisclosed
from dicom_adapter.config.problems import mask_secrets, may_contain_secret, message, with_note
from dicom_adapter.config.scalars import format_size
from dicom_adapter.config.suggest import listed, suggestion

DERIVED = "dicom_adapter.derived"  # metadata key that marks a field which the configuration file cannot set

Field: TypeAlias = "attrs.Attribute[Any]"
Unknown: TypeAlias = Annotated[Any, Undisclosed()]  # the value of a misspelt key may be a password


class UnknownKeyError(ValueError):
    """A key sets no field of its table."""


def structure_class(converter: Converter, table: Any, cls: Any) -> Any:
    """Convert `table` to an instance of `cls`. Raises ClassValidationError (of cattrs) with all errors."""
    reader = TableReader(converter, table, cls)
    return reader.build(unknown_keys(table, cls))


def unknown_keys(table: Mapping[str, Any], *classes: type) -> list[Exception]:
    """Return an error for each key that sets no field of the classes."""
    known = [key for cls in classes for key in keys(cls)]
    errors: list[Exception] = []
    for key in table:
        if not any(sets_field(cls, key) for cls in classes):
            unknown = UnknownKeyError(f"is not a known key{suggestion(key, known)} (known: {listed(known)})")
            errors.append(_at(key, Unknown, unknown))
    return errors


def keys(cls: type) -> list[str]:
    """Return the keys of the table for `cls`, for messages and documentation."""
    return [key_of(field) for field in settable(cls)]


def sets_field(cls: type, key: str) -> bool:
    """Return whether `key` sets a field of `cls`."""
    return any(_belongs(field, key) for field in settable(cls))


def settable(cls: Any) -> list[Field]:
    """Return the fields that keys can set, with resolved types."""
    return [f for f in attrs.fields(attrs.resolve_types(cls)) if f.init and not f.metadata.get(DERIVED)]


def nested_class(type_: Any) -> type | None:
    """Return the settings class of a table: of the type itself, or of an optional table."""
    options = get_args(type_) if get_origin(type_) in {Union, UnionType} else (type_,)
    return next((option for option in options if isinstance(option, type) and attrs.has(option)), None)


def prefixes_of(cls: type) -> list[str]:
    """Return the prefixes of fields that collect keys, such as `pipeline-`."""
    return [prefix for field in settable(cls) if (prefix := field.metadata.get(PREFIX))]


def key_of(field: Field) -> str:
    """Return the key that sets a field, or the pattern of its keys."""
    prefix = field.metadata.get(PREFIX)
    return f"{prefix}<name>" if prefix else field.name.strip("_").replace("_", "-")


def _belongs(field: Field, key: str) -> bool:
    prefix = field.metadata.get(PREFIX)
    return key.startswith(prefix) and key != prefix if prefix else key == key_of(field)


class TableReader:
    """Reads one table: collects the arguments for the class, and all errors."""

    def __init__(self, converter: Converter, table: Any, cls: type, *, types: Mapping[str, Any] | None = None) -> None:
        """Read all fields. `types` overrides the types of fields."""
        if not isinstance(table, dict):
            raise TypeError("must be a table")
        self.cls = cls
        self.arguments: dict[str, Any] = {}
        self.errors: list[Exception] = []
        self._converter = converter
        self._table = table
        self._types = types or {}
        for field in settable(cls):
            self._read(field)

    def build(self, more_errors: list[Exception] | None = None) -> Any:
        """Return the instance, or raise a group of all errors."""
        errors = self.errors + (more_errors or [])
        if errors:
            raise ClassValidationError(f"{self.cls.__name__} is not valid", errors, self.cls)
        try:
            return self.cls(**self.arguments)
        except Exception as error:  # noqa: BLE001 - a plugin's own class may raise anything
            invalid = ValueError(f"is not valid: {mask_secrets(message(error), self.arguments)}")
        raise ClassValidationError(f"{self.cls.__name__} is not valid", [invalid], self.cls)

    def _read(self, field: Field) -> None:
        prefix = field.metadata.get(PREFIX)
        # A key that begins with the prefix, but is the key of another field, sets only that field.
        present = any(_belongs(field, key) and not (prefix and self._has_field(key)) for key in self._table)
        if not present:
            self._read_default(field)
        elif prefix:
            self._collect(field, prefix)
        else:
            self._read_value(field)

    def _has_field(self, key: str) -> bool:
        return any(key == key_of(field) for field in settable(self.cls))

    def _read_value(self, field: Field) -> None:
        key = key_of(field)
        type_ = self._types.get(field.name, field.type or Any)
        with self._collect_errors(key, type_, _default_clause(field, type_)):
            value = self._converter.structure(self._table[key], type_)
            _validate(field, value)
            self._set(field, value)

    def _collect(self, field: Field, prefix: str) -> None:
        """Collect the keys of a prefix. The validator receives all values, so it runs only if each of them is valid."""
        type_: Any = (get_args(field.type) or (str, Any))[1]
        errors_before = len(self.errors)
        collected: dict[str, Any] = {}
        for key, value in self._table.items():
            if _belongs(field, key) and not self._has_field(key):
                with self._collect_errors(key, type_):
                    collected[key.removeprefix(prefix)] = self._converter.structure(value, type_)
        if len(self.errors) == errors_before:
            with self._collect_errors(key_of(field), type_):
                _validate(field, collected)
                self._set(field, collected)

    def _read_default(self, field: Field) -> None:
        """Validate the default: a validator may require a value although the field has a default."""
        explanation = field.metadata.get(HELP, "").rstrip(".")
        with self._collect_errors(key_of(field), field.type, f" ({explanation})" if explanation else ""):
            if field.default is attrs.NOTHING:
                raise ValueError("must be given at least once" if field.metadata.get(PREFIX) else "is missing")
            default: Any = field.default
            if not isinstance(default, attrs.Factory):  # type: ignore[arg-type] # it is a class at run time
                _validate(field, default)
            elif not default.takes_self:
                _validate(field, default.factory())

    def _set(self, field: Field, value: Any) -> None:
        self.arguments[field.alias or field.name] = value

    @contextmanager
    def _collect_errors(self, key: str, type_: Any, clause: str = "") -> Iterator[None]:
        try:
            yield
        except BaseValidationError as group:
            self.errors.append(_at(key, type_, group))
        except Exception as error:  # noqa: BLE001 - a plugin's own types and validators may raise anything
            self.errors.append(_at(key, type_, ValueError(f"{message(error)}{clause}")))


def _at(key: str, type_: Any, error: Exception) -> Exception:
    return with_note(error, AttributeValidationNote(f"at {key}", key, type_))


def _validate(field: Field, value: Any) -> None:
    """Run the field's validator without an instance, as documented in `setting`."""
    if field.validator is None or field.converter is not None:  # attrs validates converted values on construction
        return
    try:
        field.validator(None, field, value)
    except AttributeError:
        return  # the validator needs the instance: it runs on construction
    except Exception as error:  # noqa: BLE001 - a plugin's own validator may raise anything
        raise ValueError(mask_secrets(message(error), value)) from None


def _default_clause(field: Field, type_: Any) -> str:
    """Return a clause with the default of a field, for the end of a message; "" if the default cannot be shown."""
    if field.default is attrs.NOTHING:  # NOTHING is itself a member of an enumeration
        return ""
    default = field.default.value if isinstance(field.default, Enum) else field.default
    if isinstance(default, ByteSize) and default:
        return f' (the default is "{format_size(default)}")'
    if isinstance(default, bool):
        return f" (the default is {str(default).lower()})"
    if may_contain_secret(type_) or not isinstance(default, (int, float, str)) or default == "":
        return ""
    return f" (the default is {default:.15g})" if isinstance(default, float) else f" (the default is {default})"
