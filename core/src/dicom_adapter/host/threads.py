"""The threads of the host process: they run the steps of the parts of a `Host`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, wait
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from select import select

import structlog

from dicom_adapter.api.certificates import Certificate
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.server import Server
from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.config.model import Config
from dicom_adapter.host.draining import previous_configs, with_draining
from dicom_adapter.host.host import Host
from dicom_adapter.host.notifications import Notifications
from dicom_adapter.host.servers import SupervisedServer
from dicom_adapter.ledger import configurations, health
from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.ledger.health import HOST, PartState
from dicom_adapter.operations.certificates import (
    assess_certificates,
    certificates_of_listener,
    certificates_of_submitters,
)
from dicom_adapter.plugins.isolation import close_within
from dicom_adapter.plugins.leaked_threads import describe_leak
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.clock_check import ClockCheck
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.parts import Part, PartKind, Parts, PartWork, process_part
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.shared_counts import HOST_REGION, CountedSeries, Counts, read_shared_counts
from dicom_adapter.runtime.storage_generation import StorageGeneration
from dicom_adapter.runtime.watch import PartFinding, Watch, examine, with_slow
from dicom_adapter.runtime.worker_groups import WorkerGroups, Workers, join, names
from dicom_adapter.runtime.workers import BoundedExecutor, Condition

log = structlog.get_logger("dicom_adapter.host")

STOP_SECONDS = 10.0  # time limit for current steps; a step that takes longer is repeated after the next start
WAKE_UPS = Part(PartKind.WAKE_UPS)
GATHER_SECONDS = 0.05  # pause after a wake-up: under load, many instances are handled together; no sender waits
HTTP = "http"
THREADS = Part(PartKind.THREADS)
CLOCK = Part(PartKind.CLOCK)
STORAGE = Part(PartKind.STORAGE)
CERTIFICATES = Part(PartKind.CERTIFICATES)
READ_CERTIFICATES_EVERY = timedelta(hours=1)
GENERATION = Part(PartKind.GENERATION)
CHECK_STORAGE_EVERY = timedelta(seconds=5)
REPLACE_SECONDS = 30.0  # time limit for current turns of replaced processors; a hang is reported within this time
WAKE_UP_SECONDS = 5.0  # maximum time that one step waits for a wake-up


class HostProcess:
    """The host with its threads, storage and ledger."""

    def __init__(
        self,
        config: Config,
        plugins: Plugins,
        clock: SystemClock,
        *,
        is_first: bool,
        counts_fd: int | None = None,
        path: str = "",
        report_alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the parts.

        `counts_fd`: descriptor of the memory in which all processes count; None: there is none. `path`: the path of the
        configuration file, for commands that the admin API runs; "": unknown. `report_alive` is called regularly.
        """
        self._config, self._path, self._counts_fd = config, path, counts_fd
        self._plugins, self._catalogue = plugins, plugins.catalogue()
        self._clock, self._clock_check = clock, ClockCheck(clock)
        self._groups = WorkerGroups(self._clock)
        self._wake_ups: dict[Part, PartWork] = {}
        self._checks = {STORAGE: PartWork(self._check_storage), CERTIFICATES: PartWork(self._read_certificates)}
        self._certificates: list[Certificate] = []
        folder = DataFolder.of(config)
        marker = folder.prepare() if is_first else folder.require_marker()
        self._storage = folder.open_storage(config.storage, self._catalogue, plugins.trace_storage)
        self._ledger = folder.open_ledger(config.ledger_url)
        with suppress(LedgerUnavailable):  # on a full disk
            self._ledger.require_known()  # before anything is changed
        if is_first:
            self._storage.recover()  # before the ledger is written: this frees space on a full disk
        self._ledger.migrate()
        self._generation = StorageGeneration(marker, self._ledger, self._clock, folder.is_durable)
        self._generation.require_match()
        self._checks[GENERATION] = PartWork(self._generation.step)
        extended, draining = self._with_draining(config)
        wake = self._groups.wake
        self._resources = Resources(
            ledger=self._ledger,
            storage=self._storage,
            clock=self._clock,
            counts=Counts.of_process(counts_fd, HOST_REGION),
            storage_problem=marker.problem,
        )
        self._storage_problem = ""  # why the opened storage or ledger was replaced or is missing; "" if it was not
        self._host = Host(extended, plugins, self._resources, _uploads, wake, draining=draining)
        self._notifications = Notifications(config, plugins, self._resources)
        self._record_configured(config)
        self._servers = self._make_servers()
        self._watch = Watch(self._examine, self._ledger, self._clock, report_alive=report_alive)

    def _with_draining(self, config: Config) -> tuple[Config, Draining]:
        return with_draining(config, previous_configs(self._ledger, self._catalogue))

    def _record_configured(self, config: Config) -> None:
        """End the drain of AE titles and submitters that are configured again. Delete the health of old parts."""
        configured = Draining(ae_titles=config.ae_titles, submitters=config.submitters)
        with self._ledger.write() as transaction:
            configurations.end_drain(transaction, configured)
            health.delete_old_parts(transaction, config.dicom.receivers)

    def _make_servers(self) -> dict[str, SupervisedServer]:
        """Create the servers of plugins, and the HTTP server if it is configured. Do not start them."""
        provided = self._host.provided_by_plugins("dicom_adapter_servers")
        servers: dict[str, tuple[str, Server]] = {
            f"{plugin} {server.name}": (str(self._plugins.info(plugin)), server)
            for plugin, of_plugin in provided.items()
            for server in of_plugin
        }
        if self._config.http is not None:
            servers[HTTP] = "dicom-adapter", self._make_http_server(self._config.http)
        caller = self._plugins.statistics.caller
        return {
            name: SupervisedServer(name, server, self._clock, caller(plugin, _server_part(name)))
            for name, (plugin, server) in servers.items()
        }

    def _make_http_server(self, config: HttpConfig) -> Server:
        # Imported only if HTTP is configured, because the import takes time.
        from dicom_adapter.web.mounting import Site, make_http_server

        site = Site(
            config=lambda: self._config,
            resources=self._resources,
            plugins=self._plugins,
            path=self._path,
            certificates=lambda: list(self._certificates),
            read_counts=self._read_counts,
        )
        return make_http_server(site, config, self._host.provided_by_plugins("dicom_adapter_http"))

    def _read_counts(self) -> Sequence[CountedSeries]:
        """Return what all processes of the service have counted; only this process, if they share no memory."""
        return self._resources.counts.series() if self._counts_fd is None else read_shared_counts(self._counts_fd)

    def start_http_server(self) -> None:
        """Start the HTTP server now, so that Refused is raised if it cannot listen. Its part would retry instead."""
        if HTTP in self._servers:
            self._servers[HTTP].start()

    def start(self, wake_fd: int) -> None:
        """Start all threads."""
        self._wake_ups = {WAKE_UPS: PartWork(partial(self._wait_for_wake_ups, wake_fd))}
        self._groups.start(self._parts())
        self._watch.start()
        self._log_ae_titles()

    def _parts(self) -> Parts:
        servers = {_server_part(name): PartWork(server.step) for name, server in self._servers.items()}
        return {**self._host.parts(), **servers, **self._notifications.parts(), **self._wake_ups, **self._checks}

    def _check_storage(self) -> datetime:
        """Check the files of storage and ledger. `_examine`, which uses no disk, reports the problem."""
        self._storage_problem = self._resources.problem()
        return self._clock.now() + CHECK_STORAGE_EVERY

    def _read_certificates(self) -> datetime:
        """Read the certificates that connections depend on. `_examine` reports certificates that expire."""
        self._certificates = [
            *certificates_of_listener(self._config),
            *certificates_of_submitters(self._host.submitters, _log_unknown_certificates),
        ]
        return self._clock.now() + READ_CERTIFICATES_EVERY

    def _wait_for_wake_ups(self, wake_fd: int) -> datetime | None:
        """Wait until a receiver reports stored instances, then wake the parts that enter rows and notify the lanes."""
        ready, _, _ = select([wake_fd], [], [], WAKE_UP_SECONDS)
        if ready:
            if not os.read(wake_fd, 65536):
                return None  # closed: all receivers and the service have ended
            self._groups.wake(Part(PartKind.ENTER))
            self._groups.wake(Part(PartKind.NOTIFY))  # a receiver may have entered a row
            time.sleep(GATHER_SECONDS)
        return self._clock.now()

    def _examine(self) -> Mapping[Part, PartFinding]:
        """Restart threads that ended, and return the findings for all parts."""
        for part in self._groups.revive():
            log.error("worker_restarted", worker=str(part))
        conditions = self._groups.conditions()
        found = {part: examine(part, own) for part, own in conditions.items()}
        if self._storage_problem and found.get(STORAGE) == PartFinding():
            found[STORAGE] = PartFinding(state=PartState.FAILING, reason=self._storage_problem)
        if found.get(CERTIFICATES) == PartFinding():
            found[CERTIFICATES] = assess_certificates(self._certificates, self._clock.system_time())
        found |= self._host.findings()
        found |= {part: own for part, own in self._notifications.findings().items() if not _is_known(found, part)}
        known = with_slow(found, self._plugins.statistics.slow_calls())
        own = {process_part(HOST): PartFinding(), THREADS: self._examine_threads(conditions)}
        return {**own, CLOCK: self._clock_check.examine(), **known}

    def _examine_threads(self, conditions: Mapping[Part, Sequence[Condition]]) -> PartFinding:
        own = sum(map(len, conditions.values()))
        own += sum(table.parallel for table in self._config.submitters.values())
        leak = describe_leak(self._plugins.statistics, own)
        return PartFinding(state=PartState.DEGRADED, reason=leak) if leak else PartFinding()

    def _log_ae_titles(self, known: Collection[str] = ()) -> None:
        """Log the served and refused AE titles, except those in `known`, which were logged before and are unchanged."""
        for ae_title, settings in self._host.served.items():
            if ae_title not in known:
                processor = self._host.processor_of(ae_title)
                log.info("ae_title_served", ae_title=ae_title, processor=processor, settings=settings)
                for notice in self._host.notices.get(ae_title, ()):
                    log.warning("ae_title_notice", ae_title=ae_title, notice=notice)
        for ae_title, reason in self._host.refused.items():
            log.error("ae_title_refused", ae_title=ae_title, reason=reason)

    # --- configuration ----------------------------------------------------------------------------------------------

    def configure(self, config: Config) -> list[str]:
        """Apply another configuration. Unchanged parts continue.

        Return the AE titles whose old processors hang: they are replaced when their turns end. Raises Refused, and
        changes nothing, if the configuration cannot be applied.
        """
        before, served = self._served_by_servers(), self._host.served
        changes = self._host.configure(*self._with_draining(config))
        self._config = config
        removed = {**changes.removed, **self._notifications.apply(config)}
        hanging = self._replace_servers() if self._served_by_servers() != before else set()
        hanging |= self._stop_workers()
        for part, close in removed.items():
            if part not in hanging or part.kind is PartKind.SUBMITTER:  # closing a submitter interrupts its calls
                close_within(part, close)
        # Start the new parts after the old ones are closed: both may use the same folder or connection.
        self._groups.start(self._parts())
        self._groups.wake(CERTIFICATES)
        self._record_configured(config)
        wait(changes.changed.values(), REPLACE_SECONDS)
        self._log_ae_titles(served.keys() - changes.changed.keys())
        return [name for name, done in changes.changed.items() if not done.done()]

    def _served_by_servers(self) -> object:
        """Return the configuration and the handles that servers depend on. A change of them replaces the servers."""
        return self._config.http, self._host.handles_for("dicom_adapter_http", "dicom_adapter_servers")

    def _replace_servers(self) -> set[Part]:
        """Close the servers, which frees their ports, and create new servers. Return the parts that hang."""
        old, self._servers = self._servers, {}
        hanging = self._stop_workers()
        self._close_servers(old, hanging)
        self._servers = self._make_servers()
        return hanging

    def _stop_workers(self) -> set[Part]:
        """Stop the workers of removed and replaced parts. Return the parts that hang."""
        return _join(self._groups.stop_except(self._parts()))

    def _close_servers(self, servers: Mapping[str, SupervisedServer], hanging: Collection[Part]) -> None:
        for name, server in servers.items():
            if _server_part(name) not in hanging:
                server.close()

    # --- stopping ---------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Wait for the current steps, within a time limit, then close everything."""
        self._ledger.shorten_waits()
        self._watch.close()
        stopped = dict(self._groups.stop_except({}))
        del stopped[WAKE_UPS]  # this part has nothing to finish
        hanging = _join(stopped)
        self._host.refuse_requests()
        self._close_servers(self._servers, hanging)
        self._host.close(hanging=hanging)
        self._notifications.close(hanging)
        self._generation.finish()
        self._resources.traces.close()
        self._storage.close()
        self._ledger.close()


def _join(workers: Workers) -> set[Part]:
    """Wait for stopped workers. Return the parts that hang."""
    hanging = join(workers, STOP_SECONDS)
    if hanging:
        log.warning("workers_abandoned", workers=names(hanging))
    return hanging


def _log_unknown_certificates(submitter: str, error: str) -> None:
    log.warning("certificates_unknown", submitter=submitter, error=error)


def _is_known(found: Mapping[Part, PartFinding], part: Part) -> bool:
    """Return whether the worker of a part has reported a problem."""
    return found.get(part, PartFinding()) != PartFinding()


def _server_part(name: str) -> Part:
    return Part(PartKind.SERVER, name)


def _uploads(name: str, threads: int) -> Executor:
    return BoundedExecutor(threads, f"upload {name}")
