"""How plugin classes declare their settings class: by the argument of their generic base."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, get_origin

from attrs import frozen, has


@frozen
class NoSettings:
    """For plugins without settings: any key in their table is an error."""


def settings_argument(cls: type, base: type) -> None:
    """Set `cls.settings_type` from `class Mine(Base[MySettings])`; without an argument there are no settings."""
    argument = _argument(cls, base)
    if argument is not None and not isinstance(argument, TypeVar):
        if not has(argument):
            raise TypeError(f"{cls.__name__}: the settings class {argument!r} must be an attrs class")
        cls.settings_type = argument  # type: ignore[attr-defined] # declared by every base that calls this
    elif "settings_type" not in {name for ancestor in cls.__mro__ for name in vars(ancestor)}:
        cls.settings_type = NoSettings  # type: ignore[attr-defined] # declared by every base that calls this


def _argument(cls: type, base: type) -> Any:
    """What `cls` itself, or through a generic class in between, gives to `base`; a TypeVar when it leaves it open."""
    left_open = None
    for alias in vars(cls).get("__orig_bases__", ()):
        origin, arguments = get_origin(alias), get_args(alias)
        if origin is base:
            found = arguments[0]
        elif isinstance(origin, type) and issubclass(origin, base):
            inner = _argument(origin, base)
            is_open = isinstance(inner, TypeVar)
            found = arguments[origin.__parameters__.index(inner)] if is_open else None  # type: ignore[attr-defined] # generic classes have it
        else:
            continue
        if isinstance(found, TypeVar):
            left_open = found
        elif found is not None:
            return found
    return left_open
