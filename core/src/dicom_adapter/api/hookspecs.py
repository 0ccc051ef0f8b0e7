"""The hooks of the adapter. A plugin is a module (or object) named by an entry point in the group `dicom_adapter`:

    [project.entry-points.dicom_adapter]
    my-plugin = "my_plugin"

The group states the version of the hooks (`API_VERSION`) that the plugin was built for: `dicom_adapter` is version 1,
`dicom_adapter.v2` is version 2. A plugin for another version is not imported; an error message names the plugin.

A faulty plugin affects only the parts that use it. Exceptions are logged by type and location, calls that do not
return in time are abandoned or shown by `status`, and results are checked. Every call is measured.

Registration hooks are called once, when a process of the adapter starts. They return classes; the configuration selects
a class by its `name`. Observer hooks are called in the host process, one after another on a separate thread. An
observer hook may be slow, and its exceptions are logged. Observer hooks are called once for each change, after the
commit of the change. They are not called for changes that happen while the host is down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy
from attrs import field, frozen

from dicom_adapter.api.lane import LaneHandle
from dicom_adapter.api.notifier import Notifier
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.api.server import Server
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import InstanceStorageInfo, Job

if TYPE_CHECKING:
    from typer import Typer

PROJECT = "dicom_adapter"  # the entry-point group, and the prefix of every hook
# Version of these specifications and of all names that `dicom_adapter` exports. The version is increased when existing
# plugins may stop working: when a name is removed or renamed, or changes its meaning. Additions do not increase it.
API_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@frozen(kw_only=True)
class Catalogue:
    """Classes that the installed plugins provide, by kind and name."""

    processors: Mapping[str, type[JobProcessorBase[Any]]] = field(factory=dict)
    submitters: Mapping[str, type[Submitter[Any]]] = field(factory=dict)
    storage_backends: Mapping[str, type[StorageBackend[Any]]] = field(factory=dict)
    notifiers: Mapping[str, type[Notifier[Any]]] = field(factory=dict)
    broken: Sequence[str] = ()  # for messages: one line for each plugin that could not be used
    disabled: Sequence[str] = ()  # for messages: one line for each plugin disabled by an operator


@hookspec
def dicom_adapter_processors() -> Iterable[type[JobProcessorBase[Any]]]:  # type: ignore[empty-body] # a specification
    """Return the job processors that this plugin provides.

    `processor = "<class name>"` in a table [ae-titles.<AE title>] selects a processor, by the `name` of its class.

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
    """Return the submitters that this plugin provides.

    `type = "<class name>"` in a table [submitters.<table name>] selects a submitter, by the `name` of its class.

    Example::

        @hookimpl
        def dicom_adapter_submitters():
            return [MyPlatformSubmitter]
    """


@hookspec
def dicom_adapter_storage_backends() -> Iterable[type[StorageBackend[Any]]]:  # type: ignore[empty-body] # a specification
    """Return the storage backends that this plugin provides.

    `backend = "<class name>"` in the table [storage] selects a backend, by the `name` of its class.

    Example::

        @hookimpl
        def dicom_adapter_storage_backends():
            return [TapeLibrary]
    """


@hookspec
def dicom_adapter_notifiers() -> Iterable[type[Notifier[Any]]]:  # type: ignore[empty-body] # a specification
    """Return the notifiers that this plugin provides: ways to send messages to people.

    `type = "<class name>"` in a table [notifications.<table name>] selects a notifier, by the `name` of its class.

    Example::

        class Pager(Notifier):
            name = "pager"

            def send(self, notification): ...

        @hookimpl
        def dicom_adapter_notifiers():
            return [Pager]
    """


@hookspec
def dicom_adapter_commands() -> Iterable[Callable[..., None] | Typer]:  # type: ignore[empty-body] # a specification
    """Return commands for `dicom-adapter`: functions for typer, or a `typer.Typer` as a group of commands.

    The name of a command is the function's name with dashes for underscores; a group needs `Typer(name="…")`. The
    names of the adapter's own commands are not allowed. The hook is called if the command line does not begin with one
    of these names, also for `dicom-adapter --help`. Time limit: ten seconds.

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
    provides, by AE title. The hook is called in the host process if the configuration has a table [http]: at the start,
    and when a reload restarts the servers. Time limit: ten seconds. Routes that cannot be mounted are omitted, and the
    log names the plugin. A handler that never returns occupies one of the server's threads. An `async` handler that
    blocks stops the whole server; `status` shows that. The server checks tokens, limits bodies, returns errors as
    problem details (RFC 9457), and describes all handlers in `/openapi.json`.

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

    `lanes` are the same as in `dicom_adapter_http`. The hook is called in the host process at the start, and when a
    reload restarts the servers. Time limit: ten seconds. The hook must not start threads or open ports.

    Example::

        @hookimpl
        def dicom_adapter_servers(lanes):
            return [MyGrpcServer(lane) for lane in lanes.values() if lane.settings.grpc_port]
    """


@hookspec
def dicom_adapter_instance_stored(instance: InstanceStorageInfo) -> None:
    """Observe an instance that was acknowledged and has reached the host, before or after its processor receives it.

    Example::

        @hookimpl
        def dicom_adapter_instance_stored(instance):
            RECEIVED.labels(instance.ae_title).inc()
    """


@hookspec
def dicom_adapter_job_changed(job: Job) -> None:
    """Observe a job that was created, or that changed its `state` or its `platform_state`.

    `platform_state` is polled from the platform if the submitter follows jobs, or its setting `status-every` is set.

    Example::

        @hookimpl
        def dicom_adapter_job_changed(job):
            if job.state in (JobState.FAULTED, JobState.FAILED):
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
