"""Entry points of plugins, and the selection of the plugins to load.

The group of an entry point states the version of the hooks that the plugin was built for: `dicom_adapter` is version 1,
`dicom_adapter.v2` is version 2. The version is read without importing the plugin: the import of a plugin for another
version may fail.
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
    """An entry point, or an object with the same interface in a test."""

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
    """Return the entry points of all installed plugins.

    If a plugin has entry points for several versions of the hooks, only the entry point for this version is returned.
    """
    found = [point for point in importlib_metadata.entry_points() if version_of(point.group) is not None]
    compatible = {_plugin_of(point) for point in found if version_of(point.group) == API_VERSION}
    return [point for point in found if version_of(point.group) == API_VERSION or _plugin_of(point) not in compatible]


def version_of(group: str) -> int | None:
    """Return the version of the hooks that an entry-point group states, or None if it is not a group of the adapter."""
    match = GROUP.fullmatch(group)
    return None if match is None else int(match[1] or 1)


def version_mismatch(group: str) -> str:
    """Return why a plugin of this group cannot be used and what to do, or "" if its version is supported."""
    version = version_of(group)
    if version == API_VERSION:
        return ""
    built = f"built for version {version} of the hooks, and this dicom-adapter has version {API_VERSION}"
    if version is not None and version > API_VERSION:
        return f"{built}: upgrade dicom-adapter, or install an older version of the plugin"
    return f"{built}: upgrade the plugin, or install an older version of dicom-adapter"


@frozen(kw_only=True)
class PluginSelection:
    """The operator's selection among the installed plugins, by the names of their entry points."""

    disable: Collection[str] = ()  # names that the configuration disables
    allowed: Collection[str] | None = None  # names that the environment variable allows; None means all

    @classmethod
    def from_environment(cls, disable: Collection[str], environ: Mapping[str, str] = os.environ) -> PluginSelection:
        """Combine the setting `disable` of the configuration with the environment variable DICOM_ADAPTER_PLUGINS."""
        value = environ.get(VARIABLE)
        allowed = None if value is None else [name.strip() for name in value.split(",") if name.strip()]
        return cls(disable=disable, allowed=allowed)

    def reason_disabled(self, name: str) -> str:
        """Return why a plugin is disabled, or "" if it is enabled."""
        if name in self.disable:
            return "[plugins] disable names it"
        if self.allowed is not None and name not in self.allowed:
            return f"the environment variable {VARIABLE} does not name it"
        return ""

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Return one sentence for each selected name that is not among the installed `names`."""
        known = set(names)
        listed = ", ".join(sorted(known)) or "none"
        selected = [("[plugins] disable", name) for name in self.disable]
        selected += [(f"the environment variable {VARIABLE}", name) for name in self.allowed or ()]
        return [
            f"{where} names '{name}', and no such plugin is installed (installed: {listed}); correct or remove the name"
            for where, name in dict.fromkeys(selected)
            if name not in known
        ]


def _plugin_of(point: PluginPoint) -> tuple[str, str]:
    return (point.dist.name if point.dist else "", point.name)
