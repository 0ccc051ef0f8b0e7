"""The plugin host: finds plugins through entry points, and offers what they provide by name.

A plugin that cannot be used never takes the adapter down. It is reported with its distribution, and what depends on it
is refused by name.
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
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.plugins.entry_points import PluginPoint, Wanted, installed, misfit
from dicom_adapter.plugins.measured import Called, Calls, Maker, measure
from dicom_adapter.runtime.deadline import TookTooLong, call_within
from dicom_adapter.runtime.parts import Part, PartKind

OnFailure = Callable[["PluginInfo", str, BaseException], None]
Check = Callable[[Any], None]  # of one thing that a plugin brings; raises what is wrong with it

LOAD_SECONDS = 30.0  # that importing a plugin, or a registration hook, may take: some import large libraries
BRING_SECONDS = 10.0  # that a hook which is called late may take: it has nothing to wait for
MOST = 1000  # things that one hook brings: what gives more may never end

T = TypeVar("T")


@frozen(kw_only=True)
class Kind:
    """A kind of component: the hook that yields it, and the class that it extends."""

    title: str
    hook: str
    base: type
    methods: tuple[str, ...]  # that are measured
    callbacks: tuple[str, ...] = ()  # methods that are given what to call later, which is measured


PROCESSOR = Kind(
    title="processor",
    hook="dicom_adapter_processors",
    base=JobProcessorBase,
    methods=("open", "handle_instance", "job_changed", "free_space", "waiting", "close"),
    callbacks=("call_at", "call_later"),
)
SUBMITTER = Kind(
    title="submitter",
    hook="dicom_adapter_submitters",
    base=Submitter,
    methods=("open", "create_job", "add_metadata", "upload", "start", "status", "cancel", "close"),
)
STORAGE = Kind(
    title="storage backend",
    hook="dicom_adapter_storage_backends",
    base=StorageBackend,
    methods=("open", "recover", "writer", "sync", "read", "delete", "keys", "capacity", "close"),
)
KINDS = (PROCESSOR, SUBMITTER, STORAGE)
OBSERVERS = ("dicom_adapter_instance_stored", "dicom_adapter_job_changed", "dicom_adapter_instances_reclaimed")


@frozen(kw_only=True)
class PluginInfo:
    """One entry point in the group `dicom_adapter`."""

    name: str  # of the entry point
    distribution: str
    version: str
    problem: str = ""  # why it cannot be used; "" when it can
    disabled: str = ""  # why it was not loaded, at somebody's wish
    observes: tuple[str, ...] = ()  # the observer hooks that it implements

    def __str__(self) -> str:
        return f"plugin '{self.name}' of {self.distribution} {self.version}"


@frozen(kw_only=True)
class Component:
    """Something that a plugin provides under a name."""

    kind: Kind
    name: str
    cls: type
    plugin: PluginInfo
    problem: str = ""  # why it cannot be chosen; "" when it can


@frozen(kw_only=True)
class Plugins:
    """What was found: the typed face of pluggy for everyone else."""

    infos: tuple[PluginInfo, ...]
    components: tuple[Component, ...]
    manager: pluggy.PluginManager = field(repr=False)
    unknown: tuple[str, ...] = ()  # a sentence for each name of a plugin that is not there
    calls: Calls = field(factory=Calls, repr=False)  # what this process calls of them

    @property
    def broken(self) -> list[str]:
        """A sentence for everything that cannot be used."""
        broken = [f"{info}: {info.problem}" for info in self.infos if info.problem]
        return broken + [f"{c.plugin}: {c.problem}" for c in self.components if c.problem]

    @property
    def problems(self) -> list[str]:
        """A sentence for everything that somebody should look at."""
        return [*self.broken, *self.unknown]

    def catalogue(self) -> Catalogue:
        """What a configuration can choose from."""
        return Catalogue(
            processors=self._usable(PROCESSOR),
            submitters=self._usable(SUBMITTER),
            storage_backends=self._usable(STORAGE),
            broken=tuple(self.broken),
            disabled=tuple(f"{info}, because {info.disabled}" for info in self.infos if info.disabled),
        )

    def provider(self, kind: Kind, name: str) -> str | None:
        """The entry point that provides the component, or None."""
        found = [c.plugin.name for c in self.components if c.kind is kind and c.name == name and not c.problem]
        return found[0] if found else None

    def maker(self, kind: Kind, name: str, part: Part) -> Maker[Any]:
        """Makes objects of the class that can be chosen by this name; that part's calls of them are measured."""
        return Maker(self._usable(kind)[name], self.called(kind, name, part), kind.methods, kind.callbacks)

    def trace_storage(self, backend: StorageBackend[Any]) -> None:
        """It is called for every instance: measured only when every call is to be logged."""
        if self.calls.trace:
            measure(backend, self.called(STORAGE, backend.name, Part(PartKind.STORAGE)), STORAGE.methods)

    def called(self, kind: Kind, name: str, part: Part) -> Called:
        """For that part's calls of the plugin that brings the component."""
        found = next(c for c in self.components if c.kind is kind and c.name == name and not c.problem)
        return self.calls.of(str(found.plugin), part)

    @property
    def observers(self) -> list[PluginInfo]:
        """The plugins that are told what happens."""
        return [info for info in self.infos if info.observes and not info.problem]

    def notify(self, observer: PluginInfo, hook: str, on_failure: OnFailure, **arguments: Any) -> None:
        """Call an observer hook of one plugin; what it raises is reported."""
        called = self.calls.of(str(observer), Part(PartKind.OBSERVER, observer.name))
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            if implementation.plugin_name != observer.name:
                continue
            try:
                called(hook, implementation.function, *(arguments[name] for name in implementation.argnames))
            except KeyboardInterrupt:  # of whoever runs a command
                raise
            except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even leave
                on_failure(observer, hook, failure)

    def commands(self, on_failure: OnFailure, check: Check = lambda _brought: None) -> list[Any]:
        """The commands that plugins bring to the command line; a plugin that raises is reported and brings none."""
        brought = self.brought("dicom_adapter_commands", on_failure, lambda _plugin: {}, check)
        return [command for commands in brought.values() for command in commands]

    def brought(
        self,
        hook: str,
        on_failure: OnFailure,
        arguments: Callable[[str], Mapping[str, Any]],
        check: Check = lambda _brought: None,
    ) -> dict[str, list[Any]]:
        """What each plugin brings by a hook that is called late, by the name of its entry point.

        `arguments` gives those of one plugin. A plugin that raises, does not return in time, or brings what `check`
        refuses is reported and brings nothing.
        """
        found: dict[str, list[Any]] = {}
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            name, given = implementation.plugin_name, arguments(implementation.plugin_name)
            called = self.calls.of(str(self.info(name)), Part(PartKind.PLUGINS))
            call = partial(implementation.function, *(given[argument] for argument in implementation.argnames))
            try:
                brought = _bring(called, hook, call, BRING_SECONDS)
                for one in brought:
                    check(one)
                found[name] = brought
            except KeyboardInterrupt:  # of whoever runs a command
                raise
            except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even leave
                on_failure(self.info(name), hook, failure)
        return found

    def implementing(self, hook: str) -> set[str]:
        """The entry points of the plugins that implement a hook."""
        return {implementation.plugin_name for implementation in getattr(self.manager.hook, hook).get_hookimpls()}

    def _usable(self, kind: Kind) -> dict[str, Any]:
        return {c.name: c.cls for c in self.components if c.kind is kind and not c.problem}

    def info(self, name: str) -> PluginInfo:
        """A plugin that can be used, by the name of its entry point."""
        return next(info for info in self.infos if info.name == name and not info.problem)


def discover(
    *own: PluginPoint,
    only: Collection[str] | None = None,
    disable: Collection[str] = (),
    calls: Calls | None = None,
) -> Plugins:
    """Load the installed plugins, or those entry points alone that `only` names.

    `own`: further ones, which are loaded whatever is disabled. `disable`: what the configuration says of it. `calls`:
    to measure what is called of them.
    """
    wanted = Wanted.by(disable)
    points = installed()
    chosen = [p for p in points if not wanted.objection(p.name) and (only is None or p.name in only)]
    found = load([*own, *chosen], calls)
    if only is not None:
        return found
    disabled = [_disabled(point, reason) for point in _unique(points) if (reason := wanted.objection(point.name))]
    unknown = wanted.unknown(point.name for point in points)
    return evolve(found, infos=(*found.infos, *disabled), unknown=tuple(unknown))


def load(points: Iterable[PluginPoint], calls: Calls | None = None) -> Plugins:
    """Load plugins from entry points, each behind an error boundary of its own."""
    calls = calls or Calls()
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    infos: list[PluginInfo] = []
    components: list[Component] = []
    for point in _unique(points):
        info = _register(manager, point, calls)
        if not info.problem:
            try:
                provided = list(_components(manager, info, calls.of(str(info), Part(PartKind.PLUGINS))))
            except KeyboardInterrupt:  # of whoever runs a command
                raise
            except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even leave
                manager.unregister(name=info.name)
                info = evolve(info, problem=f"a registration hook failed: {_describe(failure)}")
            else:
                components += provided
        infos.append(info)
    usable = tuple(_mark_duplicates(components))
    return Plugins(infos=tuple(infos), components=usable, manager=manager, calls=calls)


def _unique(points: Iterable[PluginPoint]) -> list[PluginPoint]:
    """Each entry point once, by name: of a distribution that lies on the path twice, the first is what is imported."""
    found: dict[tuple[str, str, str], PluginPoint] = {}
    for number, point in enumerate(points):
        source = point.dist.name if point.dist else f"{number:04}"  # without a distribution none is like another
        found.setdefault((point.name, point.value, source), point)
    return [found[key] for key in sorted(found)]


def _described(point: PluginPoint) -> PluginInfo:
    return PluginInfo(
        name=point.name,
        distribution=point.dist.name if point.dist else "an unknown distribution",
        version=point.dist.version if point.dist else "",
    )


def _disabled(point: PluginPoint, reason: str) -> PluginInfo:
    return evolve(_described(point), disabled=reason)


def _register(manager: pluggy.PluginManager, point: PluginPoint, calls: Calls) -> PluginInfo:
    info = _described(point)
    if problem := misfit(point.group):
        return evolve(info, problem=problem)
    if manager.get_plugin(point.name) is not None:
        return evolve(info, problem="another distribution has a plugin of the same name; uninstall one of them")
    try:
        called = calls.of(str(info), Part(PartKind.PLUGINS))
        plugin = call_within(LOAD_SECONDS, partial(called, "load", point.load))
        manager.register(plugin, name=point.name)
    except KeyboardInterrupt:  # of whoever runs a command
        raise
    except BaseException as failure:  # noqa: BLE001 - importing a plugin may raise anything, even leave
        _forget(manager, point.name)
        return evolve(info, problem=f"failed to load: {_describe(failure)}")
    unknown = _unknown_hooks(manager, plugin)
    if unknown:
        manager.unregister(name=point.name)
        return evolve(info, problem=f"implements unknown hooks: {', '.join(unknown)}")
    observes = [hook.name for hook in manager.get_hookcallers(plugin) or () if hook.name in OBSERVERS]
    return evolve(info, observes=tuple(sorted(observes)))


def _forget(manager: pluggy.PluginManager, name: str) -> None:
    """pluggy keeps a plugin whose hook signatures it refused half way through."""
    if manager.get_plugin(name) is not None:
        manager.unregister(name=name)


def _unknown_hooks(manager: pluggy.PluginManager, plugin: object) -> list[str]:
    return sorted(hook.name for hook in manager.get_hookcallers(plugin) or () if not hook.has_spec())


def _components(manager: pluggy.PluginManager, info: PluginInfo, called: Called) -> Iterator[Component]:
    for kind in KINDS:
        for implementation in getattr(manager.hook, kind.hook).get_hookimpls():
            if implementation.plugin_name == info.name:
                for cls in _bring(called, kind.hook, implementation.function, LOAD_SECONDS):
                    yield _component(kind, cls, info)


def _bring(called: Called, hook: str, call: Callable[[], Iterable[T]], seconds: float) -> list[T]:
    """What a hook returns; if it is a generator, all that it gives. Raises what it does, and TookTooLong."""

    def listed() -> list[T]:
        brought = list(islice(call(), MOST + 1))
        if len(brought) > MOST:
            raise TypeError(f"it gives more than {MOST} things")
        return brought

    return call_within(seconds, partial(called, hook, listed))


def _component(kind: Kind, cls: Any, info: PluginInfo) -> Component:
    if not isinstance(cls, type) or not issubclass(cls, kind.base):
        raise TypeError(f"{kind.hook} gave {cls!r}, which is not a class that extends {kind.base.__name__}")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{cls.__name__} has no `name`, by which the configuration could choose it")
    if not has(getattr(cls, "settings_type", int)):
        raise TypeError(f"{cls.__name__}.settings_type is not an attrs class")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    problem = f"{kind.title} '{name}' does not implement {', '.join(missing)}" if missing else ""
    return Component(kind=kind, name=name, cls=cls, plugin=info, problem=problem)


def _mark_duplicates(components: list[Component]) -> Iterator[Component]:
    """A name that two plugins provide is nobody's: guessing could hand patients' studies to the wrong one."""
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


def _describe(failure: BaseException) -> str:
    if isinstance(failure, TookTooLong):
        return str(failure)
    return f"{type(failure).__name__}: {failure}"
