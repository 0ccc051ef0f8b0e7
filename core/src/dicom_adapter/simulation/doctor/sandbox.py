"""Test one plugin with a temporary folder, a virtual clock, a platform in memory, and synthetic instances.

Nothing is connected to other systems: submitters are created but not opened, and servers are not started.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import DicomAdapterError, Refused, describe_failure
from dicom_adapter.config import Config, prefixes_of, structure
from dicom_adapter.config.tables import sets_field
from dicom_adapter.plugins import commands
from dicom_adapter.plugins.isolation import RESULT_CHECKS, InvalidHookResult, make_submitter
from dicom_adapter.plugins.registry import PROCESSOR, STORAGE, SUBMITTER, Component, PluginInfo, Plugins, discover
from dicom_adapter.runtime.deadline import TookTooLong
from dicom_adapter.simulation.adapter import Plugin
from dicom_adapter.simulation.doctor.processing import SandboxPlugin, play
from dicom_adapter.simulation.doctor.storing import keep_and_read
from dicom_adapter.simulation.doctor.values import Trial

Tables = Mapping[str, Any]
Logged = Sequence[Mapping[str, Any]]
# Log events of the adapter about errors of plugins, with the next step.
ERROR_EVENTS = {
    "observer_failed": "errors of observers are logged, and the observer is notified of later events: fix the observer",
    "processor_failed": "a turn that raises is retried; repeated failures stop the AE title: fix the processor",
    "processor_waiting_failed": "waiting() must return Waiting(label, instance_count, until)",
    "processor_close_failed": "fix close()",
    "http_mount_failed": "the hook must return Litestar handlers, controllers or routers",
}
AE_TITLE, SUBMITTER_NAME = "DOCTOR", "tried"  # names in the configuration of the sandbox
WITH_SETTINGS = "name a configuration that uses the plugin, with --config, or set them with --setting KEY=VALUE"


class Sandbox:
    """The environment in which one plugin is tested."""

    def __init__(
        self, name: str, folder: Path, tables: Tables, relative_to: Path, logged: Logged, settings: Mapping[str, Any]
    ) -> None:
        """Create the environment.

        `tables` are the tables of a configuration, for the settings of the plugin; paths in them are relative to
        `relative_to`. `settings` replace single keys of them. `logged` is the list to which the log entries of the
        adapter are added.
        """
        self._name = name
        self._folder = folder
        self._tables = tables
        self._relative_to = relative_to
        self._logged = logged
        self._settings = settings
        self._own_plugin = SandboxPlugin()
        self._plugins: Plugins
        self._threads = set(threading.enumerate())

    def trials(self, begins: Callable[[str], None]) -> Iterator[Trial]:
        """Run all trials; `begins` is called with the name of each trial before it begins."""

        def run(name: str, attempt: Callable[[], str]) -> Trial:
            begins(name)
            before = len(self._logged)
            found = _try(name, attempt)
            errors = [_describe_error(entry) for entry in self._logged[before:] if entry["event"] in ERROR_EVENTS]
            if found.problem or not errors:
                return found
            return evolve(found, problem="; ".join(dict.fromkeys(errors)))

        yield run("load", self._load)
        info = next((info for info in self._plugins.infos if info.name == self._name), None)
        if info is None or info.problem:
            return
        components = [found for found in self._plugins.components if found.plugin.name == self._name]
        if self._settings:
            yield run("settings", lambda: self._check_settings(components))
        for component in components:
            yield run(f"{component.kind.title} '{component.name}'", lambda it=component: self._component(it))  # type: ignore[misc] # bound at once
        if info.observes:
            yield run("observer", self._observe)
        for hook, check in (*RESULT_CHECKS.items(), ("dicom_adapter_commands", commands.check)):
            if self._implements(hook):
                yield run(hook, lambda hook=hook, check=check: self._call_hook(hook, check))  # type: ignore[misc] # bound at once
        yield run("leaks", self._look_for_leaks)

    def _load(self) -> str:
        self._plugins = discover(Plugin(self._own_plugin, name="sandbox"), only=[self._name])
        problems = self._plugins.broken
        if problems:
            what_to_do = f'fix or upgrade it, or disable it: [plugins] disable = ["{self._name}"]'
            raise Refused(f"{'; '.join(problems)}; {what_to_do}")
        components = [f"{c.kind.title} '{c.name}'" for c in self._plugins.components if c.plugin.name == self._name]
        return ", ".join(components) or "no processor, submitter or storage backend"

    def _implements(self, hook: str) -> bool:
        implementations = getattr(self._plugins.manager.hook, hook).get_hookimpls()
        return any(implementation.plugin_name == self._name for implementation in implementations)

    # --- components -------------------------------------------------------------------------------------------------

    def _component(self, component: Component) -> str:
        if component.problem:
            raise Refused(component.problem)
        tries = {PROCESSOR: self._processor, SUBMITTER: self._submitter, STORAGE: self._storage_backend}
        return tries[component.kind](component)

    def _processor(self, component: Component) -> str:
        own = [
            table.get("settings", {})
            for table in self._tables.get("ae-titles", {}).values()
            if table.get("processor", "aetitle") == component.name
        ]
        given = self._given(component)
        tables = [
            {"processor": component.name, "settings": {**settings, **given}}
            for settings in own or _guesses(component.cls)
        ]
        config = self._first_valid([{"ae-titles": {AE_TITLE: table}} for table in tables])
        return play(config, self._plugins, AE_TITLE)

    def _submitter(self, component: Component) -> str:
        own = [t for t in self._tables.get("submitters", {}).values() if t.get("type") == component.name]
        tables = own or [{"type": component.name, **guess} for guess in _guesses(component.cls)]
        given = self._given(component)
        config = self._first_valid([{"submitters": {SUBMITTER_NAME: {**table, **given}}} for table in tables])
        made = make_submitter(config, self._plugins, SUBMITTER_NAME)
        if made.context.data_folder.exists():
            raise Refused(
                "its constructor creates its data folder, so that even `check` would create it; create it in open()"
            )
        return "created; not opened, so that no platform is called"

    def _storage_backend(self, component: Component) -> str:
        table = self._tables.get("storage", {})
        given = self._given(component)
        is_own = table.get("backend", "local") == component.name and not given
        own = {key: value for key, value in table.items() if key != "path"} if is_own else {}
        if is_own and set(own) - {"backend", "watermark-percent", "reserve", "quarantine-quota", "durability"}:
            raise NotTried("its settings may name storage that is in use; name others with --setting KEY=VALUE")
        path = str(self._folder / "tried")
        config = self._first_valid([{"storage": {**own, **given, "backend": component.name, "path": path}}])
        return keep_and_read(component.cls, config)

    def _observe(self) -> str:
        config = self._first_valid([{"ae-titles": {AE_TITLE: {"processor": self._own_plugin.processor.name}}}])
        return f"notified of {play(config, self._plugins, AE_TITLE)}"

    def _call_hook(self, hook: str, check: Callable[[Any], None]) -> str:
        def failed(_plugin: PluginInfo, _hook: str, failure: BaseException) -> None:
            raise Refused(_message(failure)) from None

        results = self._plugins.call_late_hook(hook, failed, lambda _plugin: {"lanes": {}}, check)
        return f"{len(results.get(self._name, ()))} returned for a service without AE titles; not started"

    def _look_for_leaks(self) -> str:
        left = [thread for thread in threading.enumerate() if thread not in self._threads]
        slow = self._plugins.statistics.slow_calls()
        if left:
            names = ", ".join(sorted({thread.name for thread in left})[:5])
            raise Refused(f"close() has left {counted(len(left), 'running thread')} ({names}); end each of them there")
        if slow:
            raise Refused(f"{'; '.join(slow.values())}; the adapter waits for these calls")
        return "no threads, no slow calls"

    # --- settings ---------------------------------------------------------------------------------------------------

    def _given(self, component: Component) -> dict[str, Any]:
        """Return the given settings that this component has."""
        cls: type[Any] = component.cls.settings_type  # type: ignore[attr-defined] # every kind of component has it
        return {key: value for key, value in self._settings.items() if sets_field(cls, key)}

    def _check_settings(self, components: Sequence[Component]) -> str:
        used = {key for component in components for key in self._given(component)}
        unknown = self._settings.keys() - used
        if unknown:
            raise Refused(f"no component of the plugin has the setting {', '.join(sorted(unknown))}")
        return ", ".join(sorted(used))

    def _first_valid(self, candidates: list[Tables]) -> Config:
        """Return the sandbox's configuration with the first valid candidate. Raises NotTried if none is valid."""
        problems: list[str] = []
        for candidate in candidates:
            document = self._own_plugin.document(self._folder / "data")
            for key, table in candidate.items():
                document[key] = {**document.get(key, {}), **table}
            loaded = structure(document, folder=self._relative_to, catalogue=self._plugins.catalogue())
            if loaded.config is not None:
                return loaded.config
            problems = [str(problem) for problem in loaded.problems]
        raise NotTried(f"{'; '.join(problems)}: {WITH_SETTINGS}")


class NotTried(DicomAdapterError):
    """A trial cannot be run."""


def _try(name: str, attempt: Callable[[], str]) -> Trial:
    began = time.monotonic()
    found: dict[str, str] = {}
    try:
        found = {"observed": attempt()}
    except NotTried as reason:
        found = {"not_tried": str(reason)}
    except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
        found = {"problem": _message(failure)}
    return Trial(trial=name, seconds=round(time.monotonic() - began, 3), **found)


def _message(failure: BaseException) -> str:
    if isinstance(failure, (Refused, TookTooLong, InvalidHookResult)):
        return str(failure)
    return f"{describe_failure(failure)}; fix this in the plugin"


def _guesses(cls: type[Any]) -> list[dict[str, Any]]:
    """Return settings that may be valid: no key, then one key for each prefix, for example `pipeline-doctor`."""
    prefixes = prefixes_of(cls.settings_type)
    return [{}, {f"{prefix}doctor": "doctor" for prefix in prefixes}] if prefixes else [{}]


def _describe_error(entry: Mapping[str, Any]) -> str:
    return f"{entry['event']}: {entry.get('error', '')}; {ERROR_EVENTS[entry['event']]}"
