"""Where plugins are found: the entry points of what is installed; and which of them are wanted.

The group of an entry point says for which version of the hooks the plugin was built: `dicom_adapter` for version 1,
`dicom_adapter.v2` for version 2. It is read without importing the plugin, which may not even be possible.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import importlib_metadata
from attrs import frozen

from dicom_adapter.api.hookspecs import API_VERSION, PROJECT

VARIABLE = "DICOM_ADAPTER_PLUGINS"
GROUP = re.compile(re.escape(PROJECT) + r"(?:\.v([0-9]{1,6}))?")


class PluginPoint(Protocol):
    """Where a plugin is found: an entry point, or something like it in a test."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def dist(self) -> Any: ...

    def load(self) -> Any: ...


def installed() -> list[PluginPoint]:
    """The entry points of all installed plugins.

    Of a plugin that comes for several versions of the hooks, the one for another version is left out.
    """
    found = [point for point in importlib_metadata.entry_points() if version_of(point.group) is not None]
    fitting = {_plugin_of(point) for point in found if version_of(point.group) == API_VERSION}
    return [point for point in found if version_of(point.group) == API_VERSION or _plugin_of(point) not in fitting]


def version_of(group: str) -> int | None:
    """The version of the hooks that an entry point of this group was built for; None: it is no plugin of ours."""
    match = GROUP.fullmatch(group)
    return None if match is None else int(match[1] or 1)


def misfit(group: str) -> str:
    """Why a plugin of this group cannot be used, and what to do; "" when it can."""
    version = version_of(group)
    if version == API_VERSION:
        return ""
    built = f"built for version {version} of the hooks, and this dicom-adapter has version {API_VERSION}"
    if version is not None and version > API_VERSION:
        return f"{built}: upgrade dicom-adapter, or install an older version of the plugin"
    return f"{built}: upgrade the plugin, or install an older version of dicom-adapter"


@frozen(kw_only=True)
class Wanted:
    """Which of the installed plugins an operator wants, by the names of their entry points."""

    disable: Collection[str] = ()  # as the configuration says
    allowed: Collection[str] | None = None  # as the environment says; None: all

    @classmethod
    def by(cls, disable: Collection[str], environ: Mapping[str, str] = os.environ) -> Wanted:
        """What configuration and environment say together."""
        listed = environ.get(VARIABLE)
        allowed = None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]
        return cls(disable=disable, allowed=allowed)

    def objection(self, name: str) -> str:
        """Why a plugin is not to be loaded; "" when it is."""
        if name in self.disable:
            return "[plugins] disable names it"
        if self.allowed is not None and name not in self.allowed:
            return f"the environment variable {VARIABLE} does not name it"
        return ""

    def unknown(self, names: Iterable[str]) -> list[str]:
        """A sentence for each name that is none of these."""
        known = set(names)
        there = ", ".join(sorted(known)) or "none"
        given = [*(("[plugins] disable", name) for name in self.disable)]
        given += [(f"the environment variable {VARIABLE}", name) for name in self.allowed or ()]
        return [
            f"{where} names '{name}', and no such plugin is installed (installed: {there}); correct or remove the name"
            for where, name in dict.fromkeys(given)
            if name not in known
        ]


def _plugin_of(point: PluginPoint) -> tuple[str, str]:
    return (point.dist.name if point.dist else "", point.name)
