"""The host process: runs the parts of a `Host` on threads, from the service's start to its stop."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_adapter import logs
from dicom_adapter.child import Channel, Start
from dicom_adapter.clock import SystemClock
from dicom_adapter.config import load
from dicom_adapter.config.model import Config
from dicom_adapter.host import Host
from dicom_adapter.part10 import keep_values_out_of_warnings
from dicom_adapter.plugins import Plugins, discover
from dicom_adapter.stores import open_ledger, open_storage
from dicom_adapter.workers import Worker

log = structlog.get_logger("dicom_adapter.host")

STOP_SECONDS = 10.0  # for the steps that are under way; what takes longer is repeated after the next start


class HostProcess:
    """The threads of the host."""

    def __init__(self, config: Config, plugins: Plugins, *, first: bool) -> None:
        self._workers: dict[str, list[Worker]] = {}
        self._executors: list[ThreadPoolExecutor] = []
        self._clock = SystemClock()
        self._ledger = open_ledger(config)
        self._ledger.migrate()
        self._storage = open_storage(config, plugins.catalogue())
        if first:
            self._storage.recover()
        self._host = Host(config, plugins, self._storage, self._ledger, self._clock, self._uploads, self._wake)

    def _uploads(self, name: str, threads: int) -> Executor:
        executor = ThreadPoolExecutor(threads, thread_name_prefix=f"upload {name}")
        self._executors.append(executor)
        return executor

    def _wake(self, part: str) -> None:
        for worker in self._workers.get(part, ()):
            worker.wake()

    def start(self, wake_fd: int) -> None:
        """Start all threads."""
        for name, (step, threads) in self._host.parts().items():
            self._workers[name] = [Worker(name, step, self._clock) for _number in range(threads)]
        for worker in self._all():
            worker.start()
        threading.Thread(target=self._follow, args=(wake_fd,), name="wake-ups", daemon=True).start()

    def _follow(self, wake_fd: int) -> None:
        while os.read(wake_fd, 65536):
            self._wake("notify")

    def stop(self) -> None:
        """Let every step that is under way finish, within limits, then close everything."""
        for worker in self._all():
            worker.stop()
        late = [worker.name for worker in self._all() if not worker.join(STOP_SECONDS)]
        if late:
            log.warning("workers_left", workers=late)
        for executor in self._executors:
            executor.shutdown(wait=not late, cancel_futures=True)
        self._host.close()
        self._storage.close()
        self._ledger.close()

    def _all(self) -> list[Worker]:
        return [worker for workers in self._workers.values() for worker in workers]


@contextmanager
def only_host(folder: Path) -> Iterator[bool]:
    """Whether this is the only host of that folder: two would deliver every instance twice."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "host.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def main() -> None:
    """`python -m dicom_adapter.host_process`, started by the service."""
    channel = Channel()
    start = channel.start()
    keep_values_out_of_warnings()
    plugins = discover()
    config = load(start.configuration, folder=Path(start.folder), catalogue=plugins.catalogue()).config
    assert config is not None  # the service has checked it
    logs.configure(style=start.log_style, level=config.log.level, process="host")
    for problem in plugins.problems:
        log.error("plugin_broken", problem=problem)
    try:
        with only_host(config.storage.path) as alone:
            if alone:
                _run(channel, start, config, plugins)
            else:
                channel.report("failed", reason=f"another dicom-adapter works in {config.storage.path}")
    except OSError as failure:
        channel.report("failed", reason=f"the data folder {config.storage.path} cannot be made: {failure.strerror}")


def _run(channel: Channel, start: Start, config: Config, plugins: Plugins) -> None:
    try:
        process = HostProcess(config, plugins, first=start.first)
    except (OSError, SQLAlchemyError) as failure:
        channel.report("failed", reason=f"the data folder {config.storage.path} cannot be used: {failure}")
        return
    process.start(start.wake_fd)
    for ae_title, table in config.ae_titles.items():
        reason = config.unavailable(ae_title)
        if reason:
            log.error("ae_title_refused", ae_title=ae_title, reason=reason)
        else:
            grouping = plugins.catalogue().processors[table.processor].describe(table.settings)
            log.info("ae_title_served", ae_title=ae_title, processor=table.processor, settings=grouping)
    log.info("host_started", pid=os.getpid())
    channel.report("ready")
    asked = channel.wait_for_stop()
    process.stop()
    log.info("host_stopped", asked=asked)


if __name__ == "__main__":
    main()
    # An upload that hangs must not keep this process, and with it the right to be the host, alive.
    os._exit(0)
