"""The hooks. A plugin is a module (or object) named by an entry point in the group `dicom_adapter`:

    [project.entry-points.dicom_adapter]
    my-plugin = "my_plugin"

The group says which version of the hooks (`API_VERSION`) the plugin was built for: this one version 1, the group
`dicom_adapter.v2` version 2. A plugin for another version is refused by name, and not imported.

Whatever a plugin does costs only what depends on it: what it raises is logged by kind and place, what does not return
in time is given up or shown by `status`, what it gives is checked. Every call is measured.

Registration hooks are called once, when a process of the adapter starts, and return classes; the configuration selects
among them by `name`. Observer hooks are called in the host process, one after another on a thread of their own: they
may be slow, and what they raise is logged. They are told of each change once, after it was committed; what happens
while the host is down, they miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy
from attrs import field, frozen

from dicom_adapter.api.lane import LaneHandle
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.api.server import Server
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import InstanceStorageInfo, Job

if TYPE_CHECKING:
    from typer import Typer

PROJECT = "dicom_adapter"  # the entry-point group, and the prefix of every hook
# Of these specifications and of all that `dicom_adapter` exports. It changes when a plugin that was written for it may
# no longer work: when something is removed, is called otherwise, or means something else; not when something is added.
API_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@frozen(kw_only=True)
class Catalogue:
    """What the installed plugins provide, by kind and name."""

    processors: Mapping[str, type[JobProcessorBase[Any]]] = field(factory=dict)
    submitters: Mapping[str, type[Submitter[Any]]] = field(factory=dict)
    storage_backends: Mapping[str, type[StorageBackend[Any]]] = field(factory=dict)
    broken: Sequence[str] = ()  # for messages: a line for each plugin that could not be used
    disabled: Sequence[str] = ()  # for messages: a line for each plugin that was not loaded, at somebody's wish


@hookspec
def dicom_adapter_processors() -> Iterable[type[JobProcessorBase[Any]]]:  # type: ignore[empty-body] # a specification
    """Return the job processors that this plugin brings; `processor = "<name>"` of an AE title selects one.

    Example::

        class WholePatient(JobProcessorBase):
            name = "whole-patient"

            def handle_instance(self, instance): ...

        @hookimpl
        def dicom_adapter_processors():
            return [WholePatient]
    """


@hookspec
def dicom_adapter_submitters() -> Iterable[type[Submitter[Any]]]:  # type: ignore[empty-body] # a specification
    """Return the submitters that this plugin brings; `type = "<name>"` of a [submitters.<name>] table selects one.

    Example::

        @hookimpl
        def dicom_adapter_submitters():
            return [MyPlatformSubmitter]
    """


@hookspec
def dicom_adapter_storage_backends() -> Iterable[type[StorageBackend[Any]]]:  # type: ignore[empty-body] # a specification
    """Return the storage backends that this plugin brings; `[storage] backend = "<name>"` selects one.

    Example::

        @hookimpl
        def dicom_adapter_storage_backends():
            return [TapeLibrary]
    """


@hookspec
def dicom_adapter_commands() -> Iterable[Callable[..., None] | Typer]:  # type: ignore[empty-body] # a specification
    """Return commands for `dicom-adapter`: functions as typer takes them, or a `typer.Typer` as a group of commands.

    A function's name, with dashes for underscores, becomes the command; a group needs `Typer(name="…")`. A name that is
    one of the adapter's own is refused. Called when the command line needs a command that is not its own; it has ten
    seconds.

    Example::

        def hello(name: str) -> None:
            typer.echo(f"Hello {name}")

        @hookimpl
        def dicom_adapter_commands():
            return [hello]
    """


@hookspec
def dicom_adapter_http(lanes: Mapping[str, LaneHandle]) -> Iterable[Any]:  # type: ignore[empty-body] # a specification
    """Return Litestar handlers, controllers or routers that the adapter's HTTP server mounts at `/<plugin>`.

    `<plugin>` is the name of the entry point. `lanes` are those of the AE titles whose processors the plugin brings,
    by AE title. Called in the host process, only when the configuration has a table [http]: when it starts, and when a
    reload makes its servers anew. It has ten seconds. What cannot be mounted is left out, and the plugin is named. A
    handler that never returns keeps one of the server's threads; an `async` one that blocks keeps the server, which
    `status` tells. The server checks tokens, limits bodies, answers errors with problem details, and describes all
    handlers in `/openapi.json`.

    Example::

        @hookimpl
        def dicom_adapter_http(lanes):
            @get("/count", sync_to_thread=True)
            def count() -> int:
                return sum(lane.ask(lambda mine: mine.count).result(10) for lane in lanes.values())

            return [count]
    """


@hookspec
def dicom_adapter_servers(lanes: Mapping[str, LaneHandle]) -> Iterable[Server]:  # type: ignore[empty-body] # a specification
    """Return servers of the plugin's own, such as a gRPC server: the host starts, watches and stops them.

    `lanes` as in `dicom_adapter_http`. Called in the host process when it starts, and when a reload makes its servers
    anew; it has ten seconds. Make no threads and open no ports here.

    Example::

        @hookimpl
        def dicom_adapter_servers(lanes):
            return [MyGrpcServer(lane) for lane in lanes.values() if lane.settings.grpc_port]
    """


@hookspec
def dicom_adapter_instance_stored(instance: InstanceStorageInfo) -> None:
    """An instance was acknowledged and has reached the host; its processor may not have seen it yet.

    Example::

        @hookimpl
        def dicom_adapter_instance_stored(instance):
            RECEIVED.labels(instance.ae_title).inc()
    """


@hookspec
def dicom_adapter_job_changed(job: Job) -> None:
    """A job came into being, changed its state (`job.state`), or the platform told something new of it
    (`job.platform_state`, where `status-every` has the platform asked).

    Example::

        @hookimpl
        def dicom_adapter_job_changed(job):
            if job.state is JobState.FAULTED:
                page_somebody(job.name, job.last_error)
    """


@hookspec
def dicom_adapter_instances_reclaimed(instances: Sequence[InstanceStorageInfo]) -> None:
    """The room of these instances was given back; their stored objects are gone.

    Example::

        @hookimpl
        def dicom_adapter_instances_reclaimed(instances):
            RECLAIMED_BYTES.inc(sum(i.size_bytes for i in instances))
    """
