"""The installed plugins and what they provide, as operators see them."""

from __future__ import annotations

from typing import Any

from dicom_adapter.plugins.registry import Component, PluginInfo, Plugins


def plugin_rows(found: Plugins) -> list[dict[str, Any]]:
    """Return a row for each component and observer, and for each plugin that cannot be used or is disabled."""
    rows = [_component(component) for component in found.components]
    rows += [_observer(info) for info in found.infos if info.observes]
    rows += [_unusable(info) for info in found.infos if info.problem or info.disabled]
    listed = {row["plugin"] for row in rows}
    return rows + [_row("other", "", info, "") for info in found.infos if info.name not in listed]


def _row(kind: str, name: str, info: PluginInfo, problem: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "plugin": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "problem": problem,
        "disabled": info.disabled,
    }


def _component(component: Component) -> dict[str, Any]:
    return _row(component.kind.title, component.name, component.plugin, component.problem)


def _observer(info: PluginInfo) -> dict[str, Any]:
    return _row("observer", ", ".join(name.removeprefix("dicom_adapter_") for name in info.observes), info, "")


def _unusable(info: PluginInfo) -> dict[str, Any]:
    return _row("unknown", "", info, info.problem)
