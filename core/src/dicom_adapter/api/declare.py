"""Settings classes of plugin classes: declared as the type argument of the generic base class."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, get_origin

from attrs import frozen, has


@frozen
class NoSettings:
    """Settings class of plugins without settings: any key in their table is an error."""


def set_settings_type(cls: type, base: type) -> None:
    """Set `cls.settings_type` to the type argument of the base class: `MySettings` for `class Mine(Base[MySettings])`.

    Without a type argument, the class inherits `settings_type`; if there is nothing to inherit, it is `NoSettings`.
    """
    argument = _type_argument(cls, base)
    if argument is not None and not isinstance(argument, TypeVar):
        if not has(argument):
            raise TypeError(f"{cls.__name__}: the settings class {argument!r} must be an attrs class")
        cls.settings_type = argument  # type: ignore[attr-defined] # declared by every base that calls this
    elif "settings_type" not in {name for ancestor in cls.__mro__ for name in vars(ancestor)}:
        cls.settings_type = NoSettings  # type: ignore[attr-defined] # declared by every base that calls this


def _type_argument(cls: type, base: type) -> Any:
    """Return the type argument that `cls` passes to `base`, directly or through a generic class in between.

    Return a TypeVar if `cls` is itself generic (`class Mine(Base[T])`), and None if there is no type argument.
    """
    unbound = None
    for alias in vars(cls).get("__orig_bases__", ()):
        origin, arguments = get_origin(alias), get_args(alias)
        if origin is base:
            argument = arguments[0]
        elif isinstance(origin, type) and issubclass(origin, base):
            inner = _type_argument(origin, base)
            is_generic = isinstance(inner, TypeVar)
            argument = arguments[origin.__parameters__.index(inner)] if is_generic else None  # type: ignore[attr-defined] # generic classes have it
        else:
            continue
        if isinstance(argument, TypeVar):
            unbound = argument
        elif argument is not None:
            return argument
    return unbound
