"""Plugin registry: load plugins from entry points, and provide their classes by name.

A faulty plugin never stops the adapter. It is reported with its distribution, and only what depends on it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import pluggy
from attrs import evolve, field, frozen, has

from dicom_adapter.api import hookspecs
from dicom_adapter.api.hookspecs import PROJECT, Catalogue
from dicom_adapter.api.notifier import Notifier
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.plugins.entry_points import PluginPoint, PluginSelection, installed, version_mismatch
from dicom_adapter.plugins.measured import CallStatistics, MeasuredCaller, MeasuredFactory, measure
from dicom_adapter.runtime.deadline import TookTooLong, call_within
from dicom_adapter.runtime.parts import Part, PartKind

OnFailure = Callable[["PluginInfo", str, BaseException], None]  # receives the plugin, the hook and the error
Check = Callable[[Any], None]  # checks one object that a hook returned; raises if the object is invalid

LOAD_SECONDS = 30.0  # limit for importing a plugin and for each registration hook: some plugins import large libraries
LATE_HOOK_SECONDS = 10.0  # limit for hooks that are called after loading, which must not wait for anything
MAX_RESULTS = 1000  # maximum number of results of one hook: a generator that yields more may never end

T = TypeVar("T")


@frozen(kw_only=True)
class ComponentKind:
    """Kind of component: the hook that registers it, and the base class that it extends."""

    title: str
    hook: str
    base: type
    methods: tuple[str, ...]  # methods to measure


PROCESSOR = ComponentKind(
    title="processor",
    hook="dicom_adapter_processors",
    base=JobProcessorBase,
    methods=(
        "open",
        "handle_instance",
        "association_changed",
        "end_wait",
        "job_changed",
        "free_space",
        "waiting",
        "close",
    ),
)
SUBMITTER = ComponentKind(
    title="submitter",
    hook="dicom_adapter_submitters",
    base=Submitter,
    methods=("open", "create_job", "add_metadata", "upload", "attach", "start", "status", "cancel", "close"),
)
STORAGE = ComponentKind(
    title="storage backend",
    hook="dicom_adapter_storage_backends",
    base=StorageBackend,
    methods=("open", "recover", "writer", "sync", "read", "delete", "keys", "capacity", "close"),
)
NOTIFIER = ComponentKind(title="notifier", hook="dicom_adapter_notifiers", base=Notifier, methods=("send", "close"))
KINDS = (PROCESSOR, SUBMITTER, STORAGE, NOTIFIER)
OBSERVERS = ("dicom_adapter_instance_stored", "dicom_adapter_job_changed", "dicom_adapter_instances_reclaimed")


@frozen(kw_only=True)
class PluginInfo:
    """One entry point in the group `dicom_adapter`."""

    name: str  # name of the entry point
    distribution: str
    version: str
    problem: str = ""  # reason why the plugin cannot be used, or ""
    disabled: str = ""  # reason why an operator has disabled it, or ""
    observes: tuple[str, ...] = ()  # observer hooks that the plugin implements

    def __str__(self) -> str:
        return f"plugin '{self.name}' of {self.distribution} {self.version}".rstrip()  # without a version


@frozen(kw_only=True)
class Component:
    """A class that a plugin provides under a name."""

    kind: ComponentKind
    name: str
    cls: type
    plugin: PluginInfo
    problem: str = ""  # reason why the component cannot be selected, or ""


@frozen(kw_only=True)
class Plugins:
    """All loaded plugins and their components: the typed interface to pluggy."""

    infos: tuple[PluginInfo, ...]
    components: tuple[Component, ...]
    manager: pluggy.PluginManager = field(repr=False)
    unknown: tuple[str, ...] = ()  # one sentence for each configured plugin name that is not installed
    statistics: CallStatistics = field(factory=CallStatistics, repr=False)  # statistics of the calls in this process

    @property
    def broken(self) -> list[str]:
        """One sentence for each plugin or component that cannot be used."""
        broken = [f"{info}: {info.problem}" for info in self.infos if info.problem]
        return broken + [f"{c.plugin}: {c.problem}" for c in self.components if c.problem]

    @property
    def problems(self) -> list[str]:
        """One sentence for each problem that needs an operator's attention."""
        return [*self.broken, *self.unknown]

    def catalogue(self) -> Catalogue:
        """Return the components that a configuration can select."""
        return Catalogue(
            processors=self._usable(PROCESSOR),
            submitters=self._usable(SUBMITTER),
            storage_backends=self._usable(STORAGE),
            notifiers=self._usable(NOTIFIER),
            broken=tuple(self.broken),
            disabled=tuple(f"{info}, because {info.disabled}" for info in self.infos if info.disabled),
        )

    def provider(self, kind: ComponentKind, name: str) -> str | None:
        """Return the name of the entry point that provides the component, or None."""
        providers = [c.plugin.name for c in self.components if c.kind is kind and c.name == name and not c.problem]
        return providers[0] if providers else None

    def factory(self, kind: ComponentKind, name: str, part: Part) -> MeasuredFactory[Any]:
        """Return a factory for objects of the component `name`, whose calls are measured on behalf of `part`."""
        return MeasuredFactory(self._usable(kind)[name], self.caller(kind, name, part), kind.methods)

    def trace_storage(self, backend: StorageBackend[Any]) -> StorageBackend[Any]:
        """Return a measured proxy if every call is logged, else the backend, because its calls must be fast."""
        if not self.statistics.trace:
            return backend
        return measure(backend, self.caller(STORAGE, backend.name, Part(PartKind.STORAGE)), STORAGE.methods)

    def caller(self, kind: ComponentKind, name: str, part: Part) -> MeasuredCaller:
        """Return the caller for the plugin that provides the component, on behalf of `part`."""
        component = next(c for c in self.components if c.kind is kind and c.name == name and not c.problem)
        return self.statistics.caller(str(component.plugin), part)

    @property
    def observers(self) -> list[PluginInfo]:
        """The plugins that implement observer hooks."""
        return [info for info in self.infos if info.observes and not info.problem]

    def notify(self, observer: PluginInfo, hook: str, on_failure: OnFailure, **arguments: Any) -> None:
        """Call an observer hook of one plugin. Pass its exceptions to `on_failure`."""
        caller = self.statistics.caller(str(observer), Part(PartKind.OBSERVER, observer.name))
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            if implementation.plugin_name != observer.name:
                continue
            try:
                caller(hook, implementation.function, *(arguments[name] for name in implementation.argnames))
            except KeyboardInterrupt:  # the user of a command pressed Ctrl-C
                raise
            except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, also SystemExit
                on_failure(observer, hook, failure)

    def commands(self, on_failure: OnFailure, check: Check = lambda _result: None) -> list[Any]:
        """Return the commands of all plugins. Pass failures to `on_failure`; a failed plugin has no commands."""
        results = self.call_late_hook("dicom_adapter_commands", on_failure, lambda _plugin: {}, check)
        return [command for commands in results.values() for command in commands]

    def call_late_hook(
        self,
        hook: str,
        on_failure: OnFailure,
        arguments: Callable[[str], Mapping[str, Any]],
        check: Check = lambda _result: None,
    ) -> dict[str, list[Any]]:
        """Call a hook that is called after loading. Return its results by the name of the plugin's entry point.

        `arguments` returns the arguments for one plugin. A plugin that raises, does not return in time, or returns
        something that `check` rejects is passed to `on_failure` and has no results.
        """
        found: dict[str, list[Any]] = {}
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            name, values = implementation.plugin_name, arguments(implementation.plugin_name)
            caller = self.statistics.caller(str(self.info(name)), Part(PartKind.PLUGINS))
            call = partial(implementation.function, *(values[argument] for argument in implementation.argnames))
            try:
                results = _call_hook(caller, hook, call, LATE_HOOK_SECONDS)
                for result in results:
                    check(result)
                found[name] = results
            except KeyboardInterrupt:  # the user of a command pressed Ctrl-C
                raise
            except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, also SystemExit
                on_failure(self.info(name), hook, failure)
        return found

    def implementing(self, hook: str) -> set[str]:
        """Return the names of the entry points of the plugins that implement a hook."""
        return {implementation.plugin_name for implementation in getattr(self.manager.hook, hook).get_hookimpls()}

    def _usable(self, kind: ComponentKind) -> dict[str, Any]:
        return {c.name: c.cls for c in self.components if c.kind is kind and not c.problem}

    def info(self, name: str) -> PluginInfo:
        """Return a usable plugin by the name of its entry point."""
        return next(info for info in self.infos if info.name == name and not info.problem)


def discover(
    *additional: PluginPoint,
    only: Collection[str] | None = None,
    disable: Collection[str] = (),
    kinds: Collection[ComponentKind] = KINDS,
    statistics: CallStatistics | None = None,
) -> Plugins:
    """Load the installed plugins that are not disabled, or only the entry points named in `only`.

    `additional` plugins are always loaded. `disable` has the names that the configuration disables. Only components
    of these `kinds` are registered: plugins import the libraries of a component when it is registered. All calls of
    plugins are recorded in `statistics`.
    """
    selection = PluginSelection.from_environment(disable)
    points = installed()
    selected = [p for p in points if not selection.reason_disabled(p.name) and (only is None or p.name in only)]
    plugins = load([*additional, *selected], kinds, statistics)
    if only is not None:
        return plugins
    reasons = [(point, selection.reason_disabled(point.name)) for point in _unique(points)]
    disabled = [evolve(_plugin_info(point), disabled=reason) for point, reason in reasons if reason]
    unknown = selection.unknown(point.name for point in points)
    return evolve(plugins, infos=(*plugins.infos, *disabled), unknown=tuple(unknown))


def load(
    points: Iterable[PluginPoint],
    kinds: Collection[ComponentKind] = KINDS,
    statistics: CallStatistics | None = None,
) -> Plugins:
    """Load plugins from entry points. A failure of one plugin does not affect other plugins."""
    statistics = statistics or CallStatistics()
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    infos: list[PluginInfo] = []
    components: list[Component] = []
    for point in _unique(points):
        info = _register(manager, point, statistics)
        if not info.problem:
            try:
                caller = statistics.caller(str(info), Part(PartKind.PLUGINS))
                provided = list(_components(manager, info, kinds, caller))
            except KeyboardInterrupt:  # the user of a command pressed Ctrl-C
                raise
            except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, also SystemExit
                manager.unregister(name=info.name)
                info = evolve(info, problem=f"a registration hook failed: {_message(failure)}")
            else:
                components += provided
        infos.append(info)
    usable = tuple(_mark_duplicates(components))
    return Plugins(infos=tuple(infos), components=usable, manager=manager, statistics=statistics)


def _unique(points: Iterable[PluginPoint]) -> list[PluginPoint]:
    """Return each entry point once, sorted by name.

    If a distribution is on the path twice, its first entry point is kept: Python imports the first module.
    """
    found: dict[tuple[str, str, str], PluginPoint] = {}
    for number, point in enumerate(points):
        source = point.dist.name if point.dist else f"{number:04}"  # entry points without a distribution all differ
        found.setdefault((point.name, point.value, source), point)
    return [found[key] for key in sorted(found)]


def _plugin_info(point: PluginPoint) -> PluginInfo:
    return PluginInfo(
        name=point.name,
        distribution=point.dist.name if point.dist else "an unknown distribution",
        version=point.dist.version if point.dist else "",
    )


def _register(manager: pluggy.PluginManager, point: PluginPoint, statistics: CallStatistics) -> PluginInfo:
    info = _plugin_info(point)
    if problem := version_mismatch(point.group):
        return evolve(info, problem=problem)
    if manager.get_plugin(point.name) is not None:
        return evolve(info, problem="another distribution has a plugin of the same name; uninstall one of them")
    try:
        caller = statistics.caller(str(info), Part(PartKind.PLUGINS))
        plugin = call_within(LOAD_SECONDS, partial(caller, "load", point.load))
        manager.register(plugin, name=point.name)
    except KeyboardInterrupt:  # the user of a command pressed Ctrl-C
        raise
    except BaseException as failure:  # noqa: BLE001 - importing a plugin may raise anything, also SystemExit
        _unregister_if_present(manager, point.name)
        return evolve(info, problem=f"failed to load: {_message(failure)}")
    unknown = _unknown_hooks(manager, plugin)
    if unknown:
        manager.unregister(name=point.name)
        return evolve(info, problem=f"implements unknown hooks: {', '.join(unknown)}")
    observes = [hook.name for hook in manager.get_hookcallers(plugin) or () if hook.name in OBSERVERS]
    return evolve(info, observes=tuple(sorted(observes)))


def _unregister_if_present(manager: pluggy.PluginManager, name: str) -> None:
    """Unregister a plugin that pluggy has kept although it rejected the signature of a hook."""
    if manager.get_plugin(name) is not None:
        manager.unregister(name=name)


def _unknown_hooks(manager: pluggy.PluginManager, plugin: object) -> list[str]:
    return sorted(hook.name for hook in manager.get_hookcallers(plugin) or () if not hook.has_spec())


def _components(
    manager: pluggy.PluginManager, info: PluginInfo, kinds: Collection[ComponentKind], caller: MeasuredCaller
) -> Iterator[Component]:
    for kind in kinds:
        for implementation in getattr(manager.hook, kind.hook).get_hookimpls():
            if implementation.plugin_name == info.name:
                for cls in _call_hook(caller, kind.hook, implementation.function, LOAD_SECONDS):
                    yield _component(kind, cls, info)


def _call_hook(caller: MeasuredCaller, hook: str, call: Callable[[], Iterable[T]], seconds: float) -> list[T]:
    """Return the results of a hook, which may be a generator. Raises the errors of the hook, and TookTooLong."""

    def list_results() -> list[T]:
        results = list(islice(call(), MAX_RESULTS + 1))
        if len(results) > MAX_RESULTS:
            raise TypeError(f"it returned more than {MAX_RESULTS} results")
        return results

    return call_within(seconds, partial(caller, hook, list_results))


def _component(kind: ComponentKind, cls: Any, info: PluginInfo) -> Component:
    if not isinstance(cls, type) or not issubclass(cls, kind.base):
        raise TypeError(f"{kind.hook} returned {cls!r}, which is not a class that extends {kind.base.__name__}")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{cls.__name__} has no `name`, by which the configuration selects it")
    if not has(getattr(cls, "settings_type", int)):
        raise TypeError(f"{cls.__name__}.settings_type is not an attrs class")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    problem = f"{kind.title} '{name}' does not implement {', '.join(missing)}" if missing else ""
    return Component(kind=kind, name=name, cls=cls, plugin=info, problem=problem)


def _mark_duplicates(components: list[Component]) -> Iterator[Component]:
    """Mark components that several plugins provide: a wrong choice could send studies to a wrong destination."""
    for component in components:
        others = sorted(
            f"{other.plugin.distribution} {other.plugin.version}"
            for other in components
            if (other.kind, other.name) == (component.kind, component.name) and other is not component
        )
        if others:
            problem = f"{component.kind.title} '{component.name}' is also provided by {', '.join(others)}"
            component = evolve(component, problem=problem)
        yield component


def _message(failure: BaseException) -> str:
    if isinstance(failure, TookTooLong):
        return str(failure)
    return f"{type(failure).__name__}: {failure}"
