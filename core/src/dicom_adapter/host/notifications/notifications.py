"""The notifications of the host, one for each table [notifications.<name>]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from dicom_adapter.api.errors import Refused
from dicom_adapter.config.model import Config
from dicom_adapter.host.notifications.sending import NotificationPart
from dicom_adapter.host.notifications.state_file import StateFile
from dicom_adapter.ledger.health import PartState
from dicom_adapter.plugins.isolation import close_within, make_notifier
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.parts import Part, PartKind, PartWork
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.watch import PartFinding

log = structlog.get_logger("dicom_adapter.host")

FOLDER = "notifications"  # in the data folder


class Notifications:
    """The notifications of the host. Another configuration replaces only those whose tables differ."""

    def __init__(self, config: Config, plugins: Plugins, resources: Resources) -> None:
        """Use the first configuration."""
        self._plugins = plugins
        self._resources = resources
        self._entries: Mapping[str, NotificationPart] = {}  # replaced as a whole, because other threads read it
        self._broken: Mapping[str, str] = {}  # tables whose notifier cannot be used, with the reasons
        self._config: Config | None = None
        self.apply(config)

    def apply(self, config: Config) -> dict[Part, Callable[[], None]]:
        """Use another configuration. Return a function for each removed or replaced notification, which closes it."""
        entries: dict[str, NotificationPart] = {}
        broken: dict[str, str] = {}
        for name, table in config.notifications.items():
            if table.unavailable:
                broken[name] = f"needs {table.unavailable}"
            elif name in self._entries and self._is_unchanged(name, config):
                entries[name] = self._entries[name]
            else:
                try:
                    entries[name] = self._make(name, config)
                except Refused as refusal:
                    broken[name] = str(refusal)
        for name, reason in broken.items():
            log.error("notifier_creation_failed", notification=name, reason=reason)
        removed = {name: old for name, old in self._entries.items() if entries.get(name) is not old}
        self._entries, self._broken, self._config = entries, broken, config
        return {_part(name): old.notifier.close for name, old in removed.items()}

    def _is_unchanged(self, name: str, config: Config) -> bool:
        before = self._config
        if before is None or before.notifications.get(name) != config.notifications[name]:
            return False
        return before.storage == config.storage and before.ae_titles.keys() == config.ae_titles.keys()

    def _make(self, name: str, config: Config) -> NotificationPart:
        notifier: Any = make_notifier(config, self._plugins, name)
        state_file = StateFile(config.storage.path / FOLDER, name)
        return NotificationPart(name, config, notifier, self._resources, state_file)

    def parts(self) -> dict[Part, PartWork]:
        """Return the work of each notification."""
        return {_part(name): PartWork(entry.step) for name, entry in self._entries.items()}

    def findings(self) -> dict[Part, PartFinding]:
        """Return the finding for each notification. Returns at once."""
        broken = {
            _part(name): PartFinding(state=PartState.DEGRADED, reason=reason) for name, reason in self._broken.items()
        }
        return broken | {_part(name): entry.finding() for name, entry in self._entries.items()}

    def close(self, hanging: set[Part]) -> None:
        """Close the notifiers, except those that hang."""
        for name, entry in self._entries.items():
            if _part(name) not in hanging:
                close_within(_part(name), entry.notifier.close)


def _part(name: str) -> Part:
    return Part(PartKind.NOTIFICATION, name)
