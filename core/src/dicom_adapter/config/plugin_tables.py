"""Tables with settings of plugins: storage, submitters, notifications and AE titles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from attrs import frozen
from cattrs import Converter

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.config import names
from dicom_adapter.config.model import AeTitleConfig, CallerConfig, Config, StorageConfig, SubmitterConfig
from dicom_adapter.config.notifications import NotificationConfig
from dicom_adapter.config.places import tables_below
from dicom_adapter.config.problems import ConfigProblem, ConfigProblemKind
from dicom_adapter.config.suggest import listed, suggestion
from dicom_adapter.config.tables import TableReader, sets_field, structure_class, unknown_keys

DEFAULT_PROCESSOR = "aetitle"
DEFAULT_BACKEND = "local"


@frozen
class PluginChoice:
    """The plugin that a table selects, or the reason why it is not available."""

    settings_type: type | None
    reason: str = ""  # "" if the plugin is available


def choose(kind: str, name: object, installed: Mapping[str, Any], catalogue: Catalogue) -> PluginChoice:
    """Find the plugin that a table selects by `name`. The converter reports a `name` that is not a text."""
    if not isinstance(name, str):
        return PluginChoice(None)
    if name in installed:
        return PluginChoice(installed[name].settings_type)
    # Each plugin that could not be used, and each disabled plugin, may be the plugin that provides `name`.
    reason = f"{kind} '{name}', which is not installed{suggestion(name, installed)} (installed: {listed(installed)})"
    if catalogue.broken:
        reason += f"; these plugins could not be used: {'; '.join(catalogue.broken)}"
    if catalogue.disabled:
        reason += f"; disabled: {'; '.join(catalogue.disabled)}"
    return PluginChoice(None, reason)


class PluginTables:
    """Converts the tables that select a plugin, with the settings class of that plugin."""

    def __init__(self, catalogue: Catalogue, converter: Converter) -> None:
        self._catalogue = catalogue
        self._converter = converter
        converter.register_structure_hook(StorageConfig, self._convert_storage)
        converter.register_structure_hook(SubmitterConfig, self._convert_submitter)
        converter.register_structure_hook(NotificationConfig, self._convert_notification)
        converter.register_structure_hook(AeTitleConfig, self._convert_ae_title)
        converter.register_structure_hook(CallerConfig, partial(_convert_caller, converter))

    def problems(self, document: Mapping[str, Any]) -> Iterator[ConfigProblem]:
        """Yield a problem for each table whose plugin is not available.

        The document is read before its conversion, to report these problems together with those of the converter.
        """
        backend = self._chosen_backend(_table(document, "storage")).reason
        if backend:
            yield ConfigProblem(where=("storage", "backend"), message=f"needs {backend}")
        for name, table in _table(document, "submitters").items():
            yield from _unavailable(("submitters", name), self._chosen_submitter(table))
        for name, table in _table(document, "notifications").items():
            yield from _unavailable(("notifications", name), self._chosen_notifier(table))
        for name, table in _table(document, "ae-titles").items():
            yield from _unavailable(("ae-titles", name), self._chosen_processor(table))

    def classes(self, document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], list[type]]]:
        """Yield each table that the file may have, with the classes whose fields its keys set."""
        for table, cls in tables_below(Config):
            settings = self._chosen_backend(_table(document, "storage")).settings_type if cls is StorageConfig else None
            yield table, [cls] if settings is None else [cls, settings]
        for name, values in _table(document, "submitters").items():
            settings = self._chosen_submitter(values).settings_type
            yield ("submitters", name), [SubmitterConfig] if settings is None else [SubmitterConfig, settings]
        for name, values in _table(document, "notifications").items():
            settings = self._chosen_notifier(values).settings_type
            yield ("notifications", name), [NotificationConfig] if settings is None else [NotificationConfig, settings]
        for name, values in _table(document, "ae-titles").items():
            yield ("ae-titles", name), [AeTitleConfig]
            yield ("ae-titles", name, "settings"), [self._chosen_processor(values).settings_type or NoSettings]

    def _chosen_backend(self, table: Any) -> PluginChoice:
        name = _entry(table, "backend", DEFAULT_BACKEND)
        return choose("storage backend", name, self._catalogue.storage_backends, self._catalogue)

    def _chosen_submitter(self, table: Any) -> PluginChoice:
        return choose("submitter", _entry(table, "type"), self._catalogue.submitters, self._catalogue)

    def _chosen_notifier(self, table: Any) -> PluginChoice:
        return choose("notifier", _entry(table, "type"), self._catalogue.notifiers, self._catalogue)

    def _chosen_processor(self, table: Any) -> PluginChoice:
        name = _entry(table, "processor", DEFAULT_PROCESSOR)
        return choose("processor", name, self._catalogue.processors, self._catalogue)

    def _convert_storage(self, table: Any, _: Any) -> Any:
        return self._open_table(table, StorageConfig, self._chosen_backend(table))

    def _convert_submitter(self, table: Any, _: Any) -> Any:
        choice = self._chosen_submitter(table)
        return self._open_table(table, SubmitterConfig, choice, unavailable=choice.reason)

    def _convert_notification(self, table: Any, _: Any) -> Any:
        choice = self._chosen_notifier(table)
        return self._open_table(table, NotificationConfig, choice, unavailable=choice.reason)

    def _open_table(self, table: Any, cls: type, choice: PluginChoice, **derived: Any) -> Any:
        """Convert a table that also has the keys of the plugin's settings. Without the plugin, no key is checked."""
        reader = TableReader(self._converter, table, cls)
        reader.arguments.update(derived)
        if choice.settings_type is None:
            return reader.build()
        plugin_keys = {key: value for key, value in table.items() if not sets_field(cls, key)}
        settings = TableReader(self._converter, plugin_keys, choice.settings_type)
        reader.errors += settings.errors + unknown_keys(table, cls, choice.settings_type)
        if not settings.errors:
            reader.arguments["settings"] = settings.build()
        return reader.build()

    def _convert_ae_title(self, table: Any, cls: type) -> Any:
        choice = self._chosen_processor(table)
        if choice.settings_type and isinstance(table, dict):
            table = {"settings": {}, **table}  # required settings are reported also if the table is missing
        reader = TableReader(self._converter, table, cls, types={"settings": choice.settings_type or Any})
        if choice.reason:
            reader.arguments.update(settings=None, unavailable=choice.reason)
        return reader.build(unknown_keys(table, cls))


def _unavailable(where: tuple[str, ...], choice: PluginChoice) -> Iterator[ConfigProblem]:
    if choice.reason:
        yield ConfigProblem(where=where, message=f"needs {choice.reason}", kind=ConfigProblemKind.UNAVAILABLE)


def _convert_caller(converter: Converter, value: Any, cls: type) -> Any:
    if isinstance(value, str):
        return CallerConfig(ae_title=names.ae_title(value))
    if not isinstance(value, dict):
        raise TypeError('must be an AE title or a table such as {ae-title = "PACS", host = "10.0.0.0/24"}')
    return structure_class(converter, value, cls)


def _table(document: Any, key: str) -> Mapping[str, Any]:
    found = _entry(document, key, {})
    return found if isinstance(found, dict) else {}


def _entry(table: Any, key: str, default: Any = None) -> Any:
    return table.get(key, default) if isinstance(table, dict) else None
