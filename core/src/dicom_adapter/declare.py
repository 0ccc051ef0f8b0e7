"""How plugin classes declare their settings class: by the argument of their generic base."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, get_origin

from attrs import frozen, has


@frozen
class NoSettings:
    """For plugins without settings: any key in their table is an error."""


def settings_argument(cls: type, base: type) -> None:
    """Set `cls.settings_type` from `class Mine(Base[MySettings])`; without an argument there are no settings."""
    for origin in getattr(cls, "__orig_bases__", ()):
        if get_origin(origin) is base:
            argument: Any = get_args(origin)[0]
            if isinstance(argument, TypeVar):
                continue
            if not has(argument):
                raise TypeError(f"{cls.__name__}: the settings class {argument!r} must be an attrs class")
            cls.settings_type = argument  # type: ignore[attr-defined] # declared by every base that calls this
            return
    if "settings_type" not in {name for ancestor in cls.__mro__ for name in vars(ancestor)}:
        cls.settings_type = NoSettings  # type: ignore[attr-defined] # declared by every base that calls this
