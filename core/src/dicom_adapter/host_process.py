"""The host process: runs the parts of a `Host` on threads, from the service's start to its stop."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from select import select
from typing import IO

import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from dicom_adapter import __version__, logs
from dicom_adapter.calls import Calls
from dicom_adapter.child import Channel, Start
from dicom_adapter.clock import SystemClock
from dicom_adapter.config import load, plugin_settings
from dicom_adapter.config.model import Config, Http
from dicom_adapter.errors import Refused, StorageFull
from dicom_adapter.flow.store import is_lack_of_room
from dicom_adapter.host import Host
from dicom_adapter.ledger import health
from dicom_adapter.ledger.health import HOST, PartState
from dicom_adapter.locks import share
from dicom_adapter.part10 import keep_values_out_of_warnings
from dicom_adapter.parts import ServerPart
from dicom_adapter.plugins import Plugins, discover
from dicom_adapter.server import Server
from dicom_adapter.stores import HOST_LOCK, open_ledger, open_storage
from dicom_adapter.threads import describe_leak
from dicom_adapter.watch import Finding, Watch, examine, with_slow
from dicom_adapter.workers import Step, Turnstile, Worker

log = structlog.get_logger("dicom_adapter.host")

NICENESS = 5  # senders wait for the receivers; what the host does may wait, whatever its plugins compute
STOP_SECONDS = 10.0  # for the steps that are under way; what takes longer is repeated after the next start
LOCK_TRIES, LOCK_PAUSE_SECONDS = 5, 0.1
WAKE_UPS = "wake-ups"
GATHER_SECONDS = 0.05  # between two looks at arrivals: under load many come together, and no sender waits for it
HTTP = "http"
THREADS = "threads"
FOLLOW_SECONDS = 5.0  # that one look for wake-ups waits


class HostProcess:
    """The threads of the host."""

    def __init__(self, config: Config, plugins: Plugins, *, first: bool) -> None:
        self._workers: dict[str, list[Worker]] = {}
        self._executors: list[Executor] = []
        self._config = config
        self._plugins = plugins
        self._clock = SystemClock()
        self._storage = open_storage(config, plugins.catalogue(), plugins.trace_storage)
        if first:
            self._storage.recover()  # before the ledger is written: on a full disk, this is what makes room for that
        self._ledger = open_ledger(config)
        self._ledger.migrate()
        with self._ledger.write() as transaction:
            health.forget_parts(transaction, config.dicom.receivers)
        self._host = Host(config, plugins, self._storage, self._ledger, self._clock, self._uploads, self._wake)
        self._servers = self._make_servers()
        self._watch = Watch(self._examine, self._ledger, self._clock)

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
        calls = self._plugins.calls
        return {
            name: ServerPart(name, server, self._clock, calls.of(plugin, f"server {name}"))
            for name, (plugin, server) in servers.items()
        }

    def _make_http_server(self, config: Http) -> Server:
        from dicom_adapter import http  # takes time to load, which others can spare

        look = partial(http.examine, self._config, self._ledger, self._storage, self._clock)
        app = http.make_app(self._host.brought("dicom_adapter_http"), look, config.token, __version__)
        return http.HttpServer(app, config)

    def take_port(self) -> None:
        """Have the HTTP server listen. Raises Refused when it cannot: later it would be tried again and again."""
        if HTTP in self._servers:
            self._servers[HTTP].start()

    def _uploads(self, name: str, threads: int) -> Executor:
        executor = Turnstile(threads, f"upload {name}")
        self._executors.append(executor)
        return executor

    def _wake(self, part: str) -> None:
        for worker in self._workers.get(part, ()):
            worker.wake()

    def start(self, wake_fd: int) -> None:
        """Start all threads."""
        parts: dict[str, tuple[Step, int]] = {**self._host.parts(), WAKE_UPS: (partial(self._follow, wake_fd), 1)}
        parts |= {f"server {name}": (server.step, 1) for name, server in self._servers.items()}
        for name, (step, threads) in parts.items():
            self._workers[name] = [Worker(name, step, self._clock) for _number in range(threads)]
        for worker in self._all():
            worker.start()
        self._watch.start()
        self._tell_ae_titles()

    def _follow(self, wake_fd: int) -> datetime | None:
        """Pass on that receivers have stored something."""
        ready, _, _ = select([wake_fd], [], [], FOLLOW_SECONDS)
        if ready:
            if not os.read(wake_fd, 65536):
                return None  # everybody who could write to it is gone
            self._wake("notify")
            time.sleep(GATHER_SECONDS)
        return self._clock.now()

    def _examine(self) -> Mapping[str, Finding]:
        """How the parts are. Whatever ended their threads, they go on."""
        for worker in self._all():
            if worker.revive():
                log.error("worker_revived", worker=worker.name)
        found = {
            name: examine(name, [worker.condition() for worker in workers]) for name, workers in self._workers.items()
        }
        return {HOST: Finding(), THREADS: self._examine_threads(), **with_slow(found, self._plugins.calls.slow())}

    def _examine_threads(self) -> Finding:
        own = len(self._all()) + sum(table.parallel for table in self._config.submitters.values())
        leak = describe_leak(self._plugins.calls, own)
        return Finding(state=PartState.DEGRADED, reason=leak) if leak else Finding()

    def _tell_ae_titles(self) -> None:
        for ae_title, settings in self._host.served.items():
            processor = self._config.ae_titles[ae_title].processor
            log.info("ae_title_served", ae_title=ae_title, processor=processor, settings=settings)
        for ae_title, reason in self._host.refused.items():
            log.error("ae_title_refused", ae_title=ae_title, reason=reason)

    def stop(self) -> None:
        """Let every step that is under way finish, within limits, then close everything."""
        self._watch.close()
        for worker in self._all():
            worker.stop()
        end = time.monotonic() + STOP_SECONDS
        at_work = [worker for worker in self._all() if worker.name != WAKE_UPS]  # which has nothing to finish
        for name, server in self._servers.items():
            if self._workers[f"server {name}"][0].join(max(0.0, end - time.monotonic())):
                server.close()
        late = {worker.name for worker in at_work if not worker.join(max(0.0, end - time.monotonic()))}
        if late:
            log.warning("workers_left", workers=sorted(late))
        for executor in self._executors:
            executor.shutdown(wait=not late, cancel_futures=True)
        self._host.close(hanging=late)
        self._storage.close()
        self._ledger.close()

    def _all(self) -> list[Worker]:
        return [worker for workers in self._workers.values() for worker in workers]


@contextmanager
def only_host(folder: Path) -> Iterator[bool]:
    """Whether this is the only host of that folder: two would deliver every instance twice."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / HOST_LOCK).open("w") as file:
        yield _lock(file)


def _lock(file: IO[str]) -> bool:
    for _try in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_SECONDS)  # who only looks whether there is a host holds it for a moment
        else:
            return True
    return False


def main() -> None:
    """`python -m dicom_adapter.host_process`, started by the service."""
    channel = Channel()
    start = channel.start()
    keep_values_out_of_warnings()
    os.nice(NICENESS)
    calls = Calls(trace=start.trace_hooks)
    plugins = discover(disable=plugin_settings(start.configuration).disable, calls=calls)
    config = load(start.configuration, folder=Path(start.folder), catalogue=plugins.catalogue()).config
    assert config is not None  # the service has checked it
    logs.configure(style=start.log_style, level=config.log.level, process="host")
    calls.tell()
    _tell_plugins(plugins)
    try:
        with only_host(config.storage.path) as alone:
            held = share(config.storage.path)  # until this process ends
            if held is None:
                channel.report(
                    "failed", reason=f"`audit --repair` works in {config.storage.path}; start when it is done"
                )
            elif alone:
                _run(channel, start, config, plugins)
            else:
                channel.report("failed", reason=f"another dicom-adapter works in {config.storage.path}")
    except OSError as failure:
        reason = f"the data folder {config.storage.path} cannot be made: {failure.strerror}"
        channel.report("failed", reason=reason, may_pass=is_lack_of_room(failure))


def _tell_plugins(plugins: Plugins) -> None:
    for problem in plugins.broken:
        log.error("plugin_broken", problem=problem)
    for info in plugins.infos:
        if info.disabled:
            log.info("plugin_disabled", plugin=str(info), reason=info.disabled)
    for problem in plugins.unknown:
        log.warning("plugin_unknown", problem=problem)


def _run(channel: Channel, start: Start, config: Config, plugins: Plugins) -> None:
    try:
        process = HostProcess(config, plugins, first=start.first)
        if start.first:
            process.take_port()
    except (OSError, StorageFull, SQLAlchemyError) as failure:
        said = failure.orig if isinstance(failure, DBAPIError) else failure  # without the statement and its values
        reason = f"the data folder {config.storage.path} cannot be used: {said}"
        channel.report("failed", reason=reason, may_pass=is_lack_of_room(failure))
        return
    except Refused as refusal:
        channel.report("failed", reason=str(refusal))
        return
    process.start(start.wake_fd)
    log.info("host_started", pid=os.getpid())
    channel.report("ready")
    asked = channel.wait_for_stop()
    process.stop()
    log.info("host_stopped", asked=asked)


if __name__ == "__main__":
    main()
    # An upload that hangs must not keep this process, and with it the right to be the host, alive.
    os._exit(0)
