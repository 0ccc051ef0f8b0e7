"""The hooks of the adapter. A plugin is a module (or object) named by an entry point in the group `dicom_adapter`:

    [project.entry-points.dicom_adapter]
    my-plugin = "my_plugin"

The group states the version of the hooks (`API_VERSION`) that the plugin was built for: `dicom_adapter` is version 1,
`dicom_adapter.v2` is version 2. A plugin for another version is not imported; an error message names the plugin.

A faulty plugin affects only what depends on it. Exceptions are logged by type and location, calls that do not return in
time are abandoned or shown by `status`, and results are checked. Every call is measured.

Registration hooks are called once, when a process of the adapter starts. They return classes; the configuration selects
among them by `name`. Observer hooks are called in the host process, one after another on a separate thread. They
may be slow, and their exceptions are logged. They are notified of each change once, after it was committed, and not of
changes that happen while the host is down.
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
# Version of these specifications and of all names that `dicom_adapter` exports. It changes when existing plugins may
# stop working: when something is removed or renamed, or changes its meaning. Additions do not change it.
API_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@frozen(kw_only=True)
class Catalogue:
    """Classes that the installed plugins provide, by kind and name."""

    processors: Mapping[str, type[JobProcessorBase[Any]]] = field(factory=dict)
    submitters: Mapping[str, type[Submitter[Any]]] = field(factory=dict)
    storage_backends: Mapping[str, type[StorageBackend[Any]]] = field(factory=dict)
    broken: Sequence[str] = ()  # for messages: one line for each plugin that could not be used
    disabled: Sequence[str] = ()  # for messages: one line for each plugin disabled by an operator


@hookspec
def dicom_adapter_processors() -> Iterable[type[JobProcessorBase[Any]]]:  # type: ignore[empty-body] # a specification
    """Return the job processors that this plugin provides; `processor = "<name>"` of an AE title selects one.

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
    """Return the submitters that this plugin provides; `type = "<name>"` of a [submitters.<name>] table selects one.

    Example::

        @hookimpl
        def dicom_adapter_submitters():
            return [MyPlatformSubmitter]
    """


@hookspec
def dicom_adapter_storage_backends() -> Iterable[type[StorageBackend[Any]]]:  # type: ignore[empty-body] # a specification
    """Return the storage backends that this plugin provides; `[storage] backend = "<name>"` selects one.

    Example::

        @hookimpl
        def dicom_adapter_storage_backends():
            return [TapeLibrary]
    """


@hookspec
def dicom_adapter_commands() -> Iterable[Callable[..., None] | Typer]:  # type: ignore[empty-body] # a specification
    """Return commands for `dicom-adapter`: functions for typer, or a `typer.Typer` as a group of commands.

    The command is the function's name with dashes for underscores; a group needs `Typer(name="…")`. The names of the
    adapter's own commands are not allowed. Called if the command line names a command that is not the adapter's own.
    Time limit: ten seconds.

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

    `<plugin>` is the name of the entry point. `lanes` are the handles of the AE titles whose processors the plugin
    provides, by AE title. Called in the host process if the configuration has a table [http]: at the start, and when a
    reload restarts the servers. Time limit: ten seconds. Routes that cannot be mounted are omitted, and the plugin is
    named in the log. A handler that never returns occupies one of the server's threads; an `async` handler that blocks
    stops the whole server, which `status` shows. The server checks tokens, limits bodies, returns errors as problem
    details (RFC 9457), and describes all handlers in `/openapi.json`.

    Example::

        @hookimpl
        def dicom_adapter_http(lanes):
            @get("/count", sync_to_thread=True)
            def count() -> int:
                return sum(lane.ask(lambda processor: processor.count).result(10) for lane in lanes.values())

            return [count]
    """


@hookspec
def dicom_adapter_servers(lanes: Mapping[str, LaneHandle]) -> Iterable[Server]:  # type: ignore[empty-body] # a specification
    """Return the plugin's own servers, such as a gRPC server: the host starts, watches and stops them.

    `lanes` as in `dicom_adapter_http`. Called in the host process when it starts, and when a reload restarts the
    servers. Time limit: ten seconds. Start no threads and open no ports here.

    Example::

        @hookimpl
        def dicom_adapter_servers(lanes):
            return [MyGrpcServer(lane) for lane in lanes.values() if lane.settings.grpc_port]
    """


@hookspec
def dicom_adapter_instance_stored(instance: InstanceStorageInfo) -> None:
    """Observe an instance that was acknowledged and has reached the host; its processor may not have seen it yet.

    Example::

        @hookimpl
        def dicom_adapter_instance_stored(instance):
            RECEIVED.labels(instance.ae_title).inc()
    """


@hookspec
def dicom_adapter_job_changed(job: Job) -> None:
    """Observe a job that was created, or that changed its `state` or its `platform_state`.

    `platform_state` is polled from the platform if the submitter's setting `status-every` is set.

    Example::

        @hookimpl
        def dicom_adapter_job_changed(job):
            if job.state is JobState.FAULTED:
                send_page(job.name, job.last_error)
    """


@hookspec
def dicom_adapter_instances_reclaimed(instances: Sequence[InstanceStorageInfo]) -> None:
    """Observe instances that were reclaimed: their stored objects are deleted.

    Example::

        @hookimpl
        def dicom_adapter_instances_reclaimed(instances):
            RECLAIMED_BYTES.inc(sum(i.size_bytes for i in instances))
    """
