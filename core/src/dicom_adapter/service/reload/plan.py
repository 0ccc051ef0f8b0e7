"""Compare the running configuration with a file, and plan the reload. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.service.reload.snapshot import SECRET, Snapshot

CORE = "dicom-adapter-core"
# The keys that a reload applies, in addition to the keys of AE titles and submitters. All other keys need a restart: a
# port, the data folder or the ledger cannot be exchanged without an interruption.
RELOADABLE = frozenset(
    {
        "default-submitter",
        "notifications",
        "dicom.max-associations",
        "dicom.max-associations-per-peer",
        "dicom.proxies",
        "dicom.association-timeout",
        "dicom.idle-timeout",
        "dicom.drain-timeout",
        "dicom.max-pdu",
        "dicom.max-data-set",
        "storage.watermark-percent",
        "storage.reserve",
        "storage.quarantine-quota",
        "ledger.history-days",
        "ledger.keep-descriptions",
        "plugins.disable",  # its effect is a change of the plugins
    }
)
RELOADABLE_TABLE = "http."  # a reload applies all keys with this prefix
PROCESSOR_KEYS = ("processor", "submitter", "settings.")  # keys of an AE title that its processor depends on


@frozen(kw_only=True)
class Change:
    """The change of one key."""

    key: str
    before: str | None  # old value; None: the key was not set
    after: str | None  # new value; None: the key is not set

    def __str__(self) -> str:
        before, after = _table(self.before), _table(self.after)
        if before is not None and after is not None:
            return "; ".join(map(str, _inner_changes(self.key, before, after)))
        if (after and self.before is None) or (before and self.after is None):  # a table has too many keys to be shown
            return f"{self.key}: {'added' if after else 'removed'}"
        if SECRET in (self.before or "") + (self.after or ""):
            return f"{self.key}: another secret"
        return f"{self.key}: {self.before or 'not set'} -> {self.after or 'not set'}"


def _table(value: str | None) -> dict[str, Any] | None:
    """Return the table whose JSON text is `value`; None for other values."""
    if value is None or not value.startswith("{"):
        return None
    try:
        table = json.loads(value)
    except ValueError:
        return None
    return table if isinstance(table, dict) else None


def _inner_changes(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """Compute the changes of the keys of a table, so that keys without a change are not shown."""
    for name in sorted(before.keys() | after.keys()):
        old, new = (None if name not in table else json.dumps(table[name]) for table in (before, after))
        if old != new:
            yield Change(key=f"{key}.{name}", before=old, after=new)


@frozen(kw_only=True)
class Tables:
    """The changes of AE titles, or of submitters."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[Change, ...]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@frozen(kw_only=True)
class Plan:
    """The changes that a reload applies."""

    ae_titles: Tables
    submitters: Tables
    settings: tuple[Change, ...]  # changes of reloadable keys in other tables
    plugins: tuple[Change, ...]  # changes of plugins, which a restart of the host applies
    restart: tuple[Change, ...]  # changes that a reload cannot apply: the service must be restarted

    @property
    def is_empty(self) -> bool:
        """True if there is no change."""
        return not (self.ae_titles or self.submitters or self.settings or self.plugins or self.restart)

    @property
    def removed(self) -> Draining:
        """The removed AE titles and submitters, whose open work can be finished first (drain)."""
        return Draining(ae_titles=self.ae_titles.removed, submitters=self.submitters.removed)

    def rebuilds(self, ae_title: str) -> bool:
        """Return whether the AE title gets a new processor."""
        return any(change.key.startswith(PROCESSOR_KEYS) for change in self.ae_titles.changed[ae_title])


def compare(before: Snapshot, after: Snapshot) -> Plan:
    """Return the plan to change `before` to `after`. Both snapshots must have the same salt."""
    settings, plugins = _changes(before.service, after.service), _changes(before.plugins, after.plugins)
    return Plan(
        ae_titles=_tables(before.ae_titles, after.ae_titles),
        submitters=_tables(before.submitters, after.submitters),
        settings=tuple(change for change in settings if _is_reloadable(change.key)),
        plugins=tuple(change for change in plugins if not _concerns_receivers(change, before)),
        restart=tuple(
            [change for change in settings if not _is_reloadable(change.key)]
            + [change for change in plugins if _concerns_receivers(change, before)]
        ),
    )


def _is_reloadable(key: str) -> bool:
    return key in RELOADABLE or key.startswith(RELOADABLE_TABLE)


def _concerns_receivers(plugin: Change, running: Snapshot) -> bool:
    """Return whether receivers, which a reload does not restart, have loaded the plugin.

    Receivers have loaded the plugin of the storage backend, and the core: another version of a plugin of the core means
    another version of the core. A removed plugin of the core does not count, because it was only disabled.
    """
    is_other_core = plugin.after is not None and f"{plugin.before} ".startswith(f"{CORE} ")
    return plugin.key == running.storage_plugin or is_other_core


def _tables(before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]) -> Tables:
    changed = [name for name in after if name in before and after[name] != before[name]]
    return Tables(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed={name: _changes(before[name], after[name]) for name in changed},
    )


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(key=key, before=before.get(key), after=after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    )


def to_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values."""
    return {
        "aeTitles": _tables_to_json(plan.ae_titles),
        "submitters": _tables_to_json(plan.submitters),
        "settings": [_change_to_json(change) for change in plan.settings],
        "plugins": [_change_to_json(change) for change in plan.plugins],
        "restartsHost": bool(plan.plugins),
        "needsRestart": [_change_to_json(change) for change in plan.restart],
    }


def _tables_to_json(tables: Tables) -> dict[str, Any]:
    changed = {name: [_change_to_json(change) for change in changes] for name, changes in tables.changed.items()}
    return {"added": list(tables.added), "removed": list(tables.removed), "changed": changed}


def _change_to_json(change: Change) -> dict[str, Any]:
    if SECRET in (change.before or "") + (change.after or ""):
        return {"key": change.key, "secret": True}
    return {"key": change.key, "before": change.before, "after": change.after}
