"""The host process: runs the parts of a `Host` on threads, from the service's start to its stop."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, wait
from datetime import datetime
from functools import partial
from select import select

import structlog

from dicom_adapter import __version__
from dicom_adapter.api.server import Server
from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.config.model import Config
from dicom_adapter.host.draining import departures, with_leaving
from dicom_adapter.host.host import Host
from dicom_adapter.host.servers import ServerPart
from dicom_adapter.ledger import configurations, health
from dicom_adapter.ledger.configurations import Leaving
from dicom_adapter.ledger.health import HOST, PartState
from dicom_adapter.plugins.isolation import close_within
from dicom_adapter.plugins.leaked_threads import describe_leak
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.parts import Part, PartKind, Parts, PartWork, process_part
from dicom_adapter.runtime.watch import PartFinding, Watch, examine, with_slow
from dicom_adapter.runtime.worker_groups import WorkerGroups, join, names
from dicom_adapter.runtime.workers import BoundedExecutor, Condition

log = structlog.get_logger("dicom_adapter.host")

STOP_SECONDS = 10.0  # for the steps that are under way; what takes longer is repeated after the next start
WAKE_UPS = Part(PartKind.WAKE_UPS)
GATHER_SECONDS = 0.05  # between two looks at arrivals: under load many come together, and no sender waits for it
HTTP = "http"
THREADS = Part(PartKind.THREADS)
EXCHANGE_SECONDS = 30.0  # that a reload waits for the turns of old processors; what hangs is told of before that
FOLLOW_SECONDS = 5.0  # that one look for wake-ups waits


class HostProcess:
    """The threads of the host."""

    def __init__(self, config: Config, plugins: Plugins, *, first: bool) -> None:
        self._config = config
        self._plugins, self._catalogue = plugins, plugins.catalogue()
        self._clock = SystemClock()
        self._groups = WorkerGroups(self._clock)
        self._wake_ups: dict[Part, PartWork] = {}
        folder = DataFolder.of(config)
        self._storage = folder.open_storage(config.storage, self._catalogue, plugins.trace_storage)
        if first:
            self._storage.recover()  # before the ledger is written: on a full disk, this is what makes room for that
        self._ledger = folder.open_ledger(config.ledger_url)
        self._ledger.migrate()
        whole, leaving = self._with_leaving(config)
        wake = self._groups.wake
        self._host = Host(whole, plugins, self._storage, self._ledger, self._clock, _uploads, wake, leaving=leaving)
        self._write_down(config)
        self._servers = self._make_servers()
        self._watch = Watch(self._examine, self._ledger, self._clock)

    def _with_leaving(self, config: Config) -> tuple[Config, Leaving]:
        """Together with what leaves."""
        return with_leaving(config, departures(self._ledger, self._catalogue))

    def _write_down(self, config: Config) -> None:
        """What is configured again leaves no longer, and parts of an earlier configuration may be no more."""
        back = Leaving(ae_titles=config.ae_titles, submitters=config.submitters)
        with self._ledger.write() as transaction:
            configurations.has_left(transaction, back)
            health.forget_parts(transaction, config.dicom.receivers)

    def _make_servers(self) -> dict[str, ServerPart]:
        """Those that plugins bring and the HTTP server, if there is to be one; none is started."""
        brought = self._host.brought("dicom_adapter_servers")
        servers: dict[str, tuple[str, Server]] = {
            f"{plugin} {server.name}": (str(self._plugins.info(plugin)), server)
            for plugin, own in brought.items()
            for server in own
        }
        if self._config.http is not None:
            servers[HTTP] = "dicom-adapter", self._make_http_server(self._config.http)
        caller = self._plugins.statistics.caller
        return {
            name: ServerPart(name, server, self._clock, caller(plugin, _server_part(name)))
            for name, (plugin, server) in servers.items()
        }

    def _make_http_server(self, config: HttpConfig) -> Server:
        from dicom_adapter.host import http  # takes time to load, which others can spare

        def look() -> http.Health:
            return http.examine(self._config, self._ledger, self._storage, self._clock)

        app = http.make_app(self._host.brought("dicom_adapter_http"), look, config.token, __version__)
        return http.HttpServer(app, config)

    def take_port(self) -> None:
        """Have the HTTP server listen. Raises Refused when it cannot: later it would be tried again and again."""
        if HTTP in self._servers:
            self._servers[HTTP].start()

    def start(self, wake_fd: int) -> None:
        """Start all threads."""
        self._wake_ups = {WAKE_UPS: PartWork(partial(self._follow, wake_fd))}
        self._groups.start(self._parts())
        self._watch.start()
        self._tell_ae_titles()

    def _parts(self) -> Parts:
        servers = {_server_part(name): PartWork(server.step) for name, server in self._servers.items()}
        return {**self._host.parts(), **servers, **self._wake_ups}

    def _follow(self, wake_fd: int) -> datetime | None:
        """Pass on that receivers have stored something."""
        ready, _, _ = select([wake_fd], [], [], FOLLOW_SECONDS)
        if ready:
            if not os.read(wake_fd, 65536):
                return None  # everybody who could write to it is gone
            self._groups.wake(Part(PartKind.NOTIFY))
            time.sleep(GATHER_SECONDS)
        return self._clock.now()

    def _examine(self) -> Mapping[Part, PartFinding]:
        """How the parts are. Whatever ended their threads, they go on."""
        for part in self._groups.revive():
            log.error("worker_revived", worker=str(part))
        conditions = self._groups.conditions()
        found = {part: examine(part, own) for part, own in conditions.items()}
        known = with_slow(found, self._plugins.statistics.slow_calls())
        return {process_part(HOST): PartFinding(), THREADS: self._examine_threads(conditions), **known}

    def _examine_threads(self, conditions: Mapping[Part, Sequence[Condition]]) -> PartFinding:
        own = sum(map(len, conditions.values()))
        own += sum(table.parallel for table in self._config.submitters.values())
        leak = describe_leak(self._plugins.statistics, own)
        return PartFinding(state=PartState.DEGRADED, reason=leak) if leak else PartFinding()

    def _tell_ae_titles(self, known: Collection[str] = ()) -> None:
        """Log what becomes of the AE titles, but for those of which that is known."""
        for ae_title, settings in self._host.served.items():
            if ae_title not in known:
                processor = self._host.processor_of(ae_title)
                log.info("ae_title_served", ae_title=ae_title, processor=processor, settings=settings)
        for ae_title, reason in self._host.refused.items():
            log.error("ae_title_refused", ae_title=ae_title, reason=reason)

    # --- another configuration --------------------------------------------------------------------------------------

    def configure(self, config: Config) -> list[str]:
        """Work with another configuration; what has not changed is left alone.

        Returns the AE titles whose old processors hang: they are exchanged when their turns come to an end. Raises
        Refused, and nothing has changed, when it cannot be.
        """
        before, served = self._mounts(), self._host.served
        taken = self._host.configure(*self._with_leaving(config))
        self._config = config
        late = self._renew_servers() if self._mounts() != before else set()
        late |= self._dismiss()
        for part, close in taken.gone.items():
            if part not in late or part.kind is not PartKind.LANE:  # a submitter's calls are cut off by that
                close_within(part, close)
        # Not before: a submitter that replaces another may use the same folder or connection as that one did.
        self._groups.start(self._parts())
        self._write_down(config)
        wait(taken.changed.values(), EXCHANGE_SECONDS)
        self._tell_ae_titles(served.keys() - taken.changed.keys())
        return [name for name, done in taken.changed.items() if not done.done()]

    def _mounts(self) -> object:
        """What servers are made of: when it is another, they are made anew."""
        return self._config.http, self._host.bringers("dicom_adapter_http", "dicom_adapter_servers")

    def _renew_servers(self) -> set[Part]:
        """The old ones end first: they have the ports. Returns as `_dismiss`, which it needs for that."""
        old, self._servers = self._servers, {}
        late = self._dismiss()
        self._close_servers(old, late)
        self._servers = self._make_servers()
        return late

    def _dismiss(self) -> set[Part]:
        """Stop the workers of parts that are gone or replaced; return the parts whose workers did not end in time."""
        late = join(self._groups.stop_except(self._parts()), STOP_SECONDS)
        if late:
            log.warning("workers_left", workers=names(late))
        return late

    def _close_servers(self, servers: Mapping[str, ServerPart], late: Collection[Part]) -> None:
        for name, server in servers.items():
            if _server_part(name) not in late:
                server.close()

    # --- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let every step that is under way finish, within limits, then close everything."""
        self._watch.close()
        stopped = dict(self._groups.stop_except({}))
        del stopped[WAKE_UPS]  # it has nothing to finish
        late = join(stopped, STOP_SECONDS)
        if late:
            log.warning("workers_left", workers=names(late))
        self._host.refuse_requests()
        self._close_servers(self._servers, late)
        self._host.close(hanging=late)
        self._storage.close()
        self._ledger.close()


def _server_part(name: str) -> Part:
    return Part(PartKind.SERVER, name)


def _uploads(name: str, threads: int) -> Executor:
    return BoundedExecutor(threads, f"upload {name}")
