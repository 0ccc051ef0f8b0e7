"""The supervisor: starts, watches, restarts and stops one host and one or more receivers.

Start: first the host, because it migrates the ledger and records which AE titles are served. Then the receivers, which
load their modules while the host starts.
Stop: first the receivers, which finish open associations and accept no new associations. Then the host.
A process that dies is restarted after a pause; the other processes continue. The package `reload` applies another
configuration to all processes.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from dicom_adapter.api.errors import Refused
from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.ledger.health import HOST, SERVICE, PartState, receiver_names
from dicom_adapter.ledger.plain import PlainLedger
from dicom_adapter.runtime.channel import ALIVE, ENDED, FAILED, SIGNALS, Child, Report, Start
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.folder_locks import FolderLocks
from dicom_adapter.runtime.parts import Part, process_part
from dicom_adapter.runtime.shared_counts import create_shared_counts
from dicom_adapter.runtime.watch import PartFinding, Watch
from dicom_adapter.service.blueprint import Blueprint
from dicom_adapter.service.process_slot import ProcessSlot
from dicom_adapter.service.reload.requests import RELOAD, RELOADED, ReloadRequests
from dicom_adapter.service.reload.rollout import Rollout
from dicom_adapter.service.service_manager import ServiceManager

log = structlog.get_logger("dicom_adapter.service")

HOST_MODULE = "dicom_adapter.host"
RECEIVER_MODULE = "dicom_adapter.receiver"
READY = frozenset({"ready", "listening"})  # events of the report with which a host or a receiver ends its start
STOP, HANG_UP = "stop", "hang-up"  # reports of the signal handlers
HOST_STOP_SECONDS = 30.0  # time limit for the stop of the host at its restart
STOP_SECONDS = 28.0  # time limit for a stop of the service, after the drain timeout; documented as half a minute
RECEIVER_STOP_SECONDS = 10.0  # time limit for the stop of the receivers, included in STOP_SECONDS

StartChild = Callable[[str, str, Sequence[int], "queue.SimpleQueue[tuple[Any, Report]]"], Child]


class CannotStart(Refused):
    """The service cannot start as configured."""


class Supervisor:
    """Supervisor of the processes, until a signal. Only `stop` and `hang_up` are thread-safe."""

    def __init__(
        self, blueprint: Blueprint, start_child: StartChild = Child, manager: ServiceManager | None = None
    ) -> None:
        """Supervise the processes of `blueprint`. `start_child` starts one process.

        `manager`: the service manager, such as systemd, to which the state of the service is reported.
        """
        self._blueprint = blueprint
        self._start_child = start_child
        # A SimpleQueue, because signal handlers use it, too: a Queue would deadlock if a `put` interrupted another.
        self._reports: queue.SimpleQueue[tuple[Any, Report]] = queue.SimpleQueue()
        self._host = ProcessSlot(HOST, HOST_MODULE)
        names = enumerate(receiver_names(blueprint.receivers), start=1)
        self._receivers = [ProcessSlot(name, RECEIVER_MODULE, number) for number, name in names]
        self._wake_read, self._wake_write = os.pipe()  # receivers wake the host, see `Start.wake_fd`
        self._counts = create_shared_counts(blueprint.receivers)
        self._port = blueprint.port
        self._ledger: PlainLedger | None = None  # opened after the host has created it
        self._watch: Watch | None = None
        self._next: Blueprint | None = None  # blueprint of the host during a rollout; the receivers get it next
        self._requests: ReloadRequests | None = None
        self._is_hung_up = False  # a SIGHUP was received
        self._had_terminal = os.isatty(0)  # standard input was a terminal at the start
        self._rollout: Rollout | None = None
        self._clock = SystemClock()  # the clock of the service; the other processes start from its reading
        self._manager = manager or ServiceManager()
        self._next_beat = 0.0  # monotonic time

    def run(self) -> None:
        """Start all processes, keep them running, and stop them in order. Raises CannotStart."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        signal.signal(signal.SIGHUP, lambda *_: self.hang_up())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # `early_signals.hold` has blocked them
        try:
            for slot in self._receivers:
                slot.preloaded = self._make_child(slot)
            if self._start_and_wait([self._host]):
                self._ledger = PlainLedger(self._blueprint.ledger_url, durable=self._blueprint.is_durable)
                self._requests = self._make_requests(self._ledger)
                # The first receiver chooses the port that the others share.
                first, *others = self._receivers
                if self._start_and_wait([first]) and self._start_and_wait(others):
                    self._run_started(self._ledger, self._requests)
        finally:
            self._stop()

    def stop(self) -> None:
        """Make `run` return. Thread-safe, also for signal handlers."""
        self._reports.put((None, {"event": STOP}))

    def hang_up(self) -> None:
        """Apply the changed configuration file, as SIGHUP does. Thread-safe, also for signal handlers."""
        self._reports.put((None, {"event": HANG_UP}))

    # --- starting ---------------------------------------------------------------------------------------------------

    def _start_and_wait(self, slots: list[ProcessSlot]) -> bool:
        """Start these processes. Return True when they are ready, False if a stop is requested earlier."""
        for slot in slots:
            self._start(slot, is_first=slot in (self._host, self._receivers[0]))
        return self._wait_for(slots)

    def _start(self, slot: ProcessSlot, *, is_first: bool) -> None:
        slot.child, slot.preloaded = slot.preloaded or self._make_child(slot), None
        slot.child.configure(self._start_message(slot, is_first=is_first))
        slot.started_at = time.monotonic()
        slot.start_at = None
        log.info("process_started", name=slot.name, child=slot.child.pid)

    def _make_child(self, slot: ProcessSlot) -> Child:
        return self._start_child(slot.name, slot.module, [self._wake_fd(slot), self._counts], self._reports)

    def _wake_fd(self, slot: ProcessSlot) -> int:
        return self._wake_read if slot is self._host else self._wake_write

    def _start_message(self, slot: ProcessSlot, *, is_first: bool) -> Start:
        is_host = slot is self._host
        blueprint = (is_host and self._next) or self._blueprint
        return Start(
            configuration=blueprint.configuration,
            folder=blueprint.folder,
            log_style=blueprint.log_style,
            port=self._port,
            is_first=is_first,
            number=slot.number,
            trace_hooks=blueprint.trace_hooks,
            wake_fd=self._wake_fd(slot),
            counts_fd=self._counts,
            plugins=None if is_host else [blueprint.storage_plugin],
            clock=self._clock.reading(),
            path=blueprint.path,
            title=blueprint.title_of(self._title(slot)),
        )

    def _title(self, slot: ProcessSlot) -> str:
        count = len(self._receivers)
        return f"{slot.name} of {count}" if slot is not self._host and count > 1 else slot.name

    def _wait_for(self, slots: list[ProcessSlot]) -> bool:
        """Wait until these processes are ready. Return False if a stop was requested before.

        A process that fails for a transient reason, such as a full disk, is restarted. Raises CannotStart after any
        other failure.
        """
        transient: set[str] = set()  # processes that failed for a transient reason and have not ended yet
        while not all(slot.is_ready for slot in slots):
            try:
                child, report = self._reports.get(timeout=self._seconds_to_restart())
            except queue.Empty:
                self._start_due()
                continue
            if report["event"] == STOP:
                return False
            if report["event"] == FAILED:
                if not report.get("transient", False):
                    raise CannotStart(report["reason"])
                transient.add(child.name)
            elif report["event"] == ENDED and child.name in transient:
                transient.discard(child.name)
            elif report["event"] == ENDED and any(slot.child is child for slot in slots):
                raise CannotStart(f"the {child.name} ended with status {report['status']}; the log says why")
            self._receive(child, report)
        return True

    # --- running ----------------------------------------------------------------------------------------------------

    def _run_started(self, ledger: PlainLedger, requests: ReloadRequests) -> None:
        with FolderLocks(Path(self._blueprint.data_folder)).as_service():
            self._watch = Watch(self._examine, ledger, self._clock)
            self._watch.start()
            requests.start()
            self._manager.ready(f"listening on port {self._port}")
            self._supervise()

    def _supervise(self) -> None:
        while True:
            self._beat()
            try:
                child, report = self._reports.get(timeout=min(self._manager.beat_seconds, self._seconds_to_restart()))
            except queue.Empty:
                self._start_due()
                continue
            if report["event"] == STOP:
                return
            self._receive(child, report)

    def _beat(self) -> None:
        """Kill the processes that have been silent for too long. If no process is silent, ping the service manager.

        A process that cannot be killed, for example because of a device that does not answer, remains silent: then the
        service manager restarts the whole service.
        """
        seconds = self._manager.beat_seconds
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + seconds
        for slot in self._slots:
            slot.count_silence(seconds)
        silent = [slot for slot in self._slots if slot.is_silent]
        for slot in silent:
            log.error("process_silent", name=slot.name, seconds=round(slot.silent_seconds))
            if slot.child is not None:
                slot.child.kill()
        if not silent:
            self._manager.ping()

    def _receive(self, child: Child | None, report: Report) -> None:
        if child is None:
            self._receive_request(report)
            return
        for slot in self._slots:
            if slot.child is child:
                slot.silent_seconds = 0.0
        if report["event"] in READY:
            self._set_ready(child, report)
        elif report["event"] == FAILED:
            log.error("process_failed", name=child.name, reason=report["reason"])
            child.stop()  # a failed receiver does not end without a request; `_reap` restarts it
        elif report["event"] == ENDED:
            self._reap(child, report["status"])
        if self._rollout is not None and report["event"] != ALIVE:
            self._continue_rollout(self._rollout, child, report)

    def _receive_request(self, report: Report) -> None:
        if report["event"] == HANG_UP:
            self._request_reload()
        elif report["event"] == RELOADED:
            self._manager.ready()
        elif report["event"] == RELOAD:
            self._rollout = Rollout(report["requested"], self)

    def _set_ready(self, child: Child, report: Report) -> None:
        """Record that a process is ready. All receivers use the port of the first receiver, also after a restart."""
        for slot in self._slots:
            if slot.child is child:
                slot.is_ready = True
        if "port" in report:
            self._port = report["port"]
            if all(slot.is_ready for slot in self._receivers):
                log.info("service_listening", port=self._port, pid=os.getpid())

    @property
    def _slots(self) -> Iterable[ProcessSlot]:
        return (self._host, *self._receivers)

    def _reap(self, child: Child, status: int) -> None:
        """Handle the end of a process: restart it immediately if a restart was requested, else after a pause."""
        for slot in self._slots:
            if slot.preloaded is child:
                slot.preloaded = None
            elif slot.child is child and slot.is_restarting:
                slot.is_restarting = slot.is_ready = False
                self._start(slot, is_first=False)
            elif slot.child is child:
                slot.record_death(status)
                with suppress(OSError):  # if the system lacks resources, the process is created after the pause
                    slot.preloaded = self._make_child(slot)  # it loads its modules during the pause
                log.error("process_died", name=slot.name, status=status, seconds_to_restart=slot.pause)

    def _seconds_to_restart(self) -> float:
        times = [slot.start_at for slot in self._slots if slot.start_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else threading.TIMEOUT_MAX

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.start_at is not None and slot.start_at <= time.monotonic():
                self._start(slot, is_first=False)

    def _make_requests(self, ledger: PlainLedger) -> ReloadRequests:
        requests = ReloadRequests(
            self._blueprint, ledger, self._clock, lambda report: self._reports.put((None, report))
        )
        requests.record_configuration()
        if self._is_hung_up:  # SIGHUP while the host started: the file may be newer than the configuration
            requests.hang_up()
        return requests

    def _examine(self) -> Mapping[Part, PartFinding]:
        """Return the finding for the service: a problem if a process does not run, or dies repeatedly."""
        problems = [problem for slot in self._slots if (problem := slot.problem())]
        if problems:
            return {process_part(SERVICE): PartFinding(state=PartState.FAILING, reason="; ".join(problems))}
        not_ready = [
            f"the {slot.name} is being restarted and is not ready yet" for slot in self._slots if not slot.is_ready
        ]
        state = PartState.DEGRADED if not_ready else PartState.OK
        return {process_part(SERVICE): PartFinding(state=state, reason="; ".join(not_ready))}

    # --- another configuration --------------------------------------------------------------------------------------

    def _request_reload(self) -> None:
        if self._had_terminal and not os.isatty(0):  # SIGHUP because the terminal was closed
            self.stop()
            return
        self._is_hung_up = True
        if self._requests is not None:  # otherwise `_make_requests` does it
            self._manager.reloading()
            self._requests.hang_up()

    def _continue_rollout(self, rollout: Rollout, child: Child, report: Report) -> None:
        result = rollout.receive(child.name, report)
        if result is not None and self._requests is not None:
            self._rollout = None
            self._requests.finish(result)

    # The following methods implement the protocol `Processes`.

    def configure_host(self, requested: Configuration) -> bool:
        if self._host.child is None:
            return False
        self._next = self._blueprint.with_configuration(requested)
        self._host.child.configure(self._start_message(self._host, is_first=False))
        return True

    def restart_host(self, requested: Configuration) -> bool:
        self._next = self._blueprint.with_configuration(requested)
        child = self._host.child
        if child is None:
            return False
        self._host.is_restarting = True
        child.stop()
        killer = threading.Timer(HOST_STOP_SECONDS, child.kill)  # no effect if the process has ended
        killer.daemon = True
        killer.start()
        return True

    def configure_receivers(self) -> set[str]:
        assert self._next is not None  # `configure_host` or `restart_host` has set it
        self._blueprint, self._next = self._next, None
        running = {slot.name: slot.child for slot in self._receivers if slot.child is not None}
        for slot in self._receivers:
            if slot.child is not None:
                slot.child.configure(self._start_message(slot, is_first=False))
        return set(running)

    def restart_receiver(self, name: str) -> None:
        for slot in self._receivers:
            if slot.name == name and slot.child is not None:
                slot.child.stop()

    def roll_back(self) -> None:
        self._next = None

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        log.info("service_stopping")
        self._manager.stopping(self._blueprint.drain_seconds + STOP_SECONDS)
        drained_at = time.monotonic() + self._blueprint.drain_seconds
        if self._ledger is not None:
            self._ledger.shorten_waits()
        if self._watch is not None:
            self._watch.close()
        if self._requests is not None:
            self._requests.close()
        self._end(self._receivers, drained_at + RECEIVER_STOP_SECONDS)
        self._end([self._host], drained_at + STOP_SECONDS)
        os.close(self._wake_read)
        os.close(self._wake_write)
        os.close(self._counts)
        if self._ledger is not None:
            self._ledger.close()
        log.info("service_stopped")

    def _end(self, slots: Iterable[ProcessSlot], deadline: float) -> None:
        """Request these processes to stop, wait until the deadline, then kill the processes that have not ended."""
        seconds = max(0.0, deadline - time.monotonic())
        for slot in slots:
            slot.end_preloaded(seconds)
        children = [slot.child for slot in slots if slot.child is not None]
        for child in children:
            child.stop()
        for child in children:
            if not child.wait(max(0.0, deadline - time.monotonic())):
                log.warning("process_killed", name=child.name, after_seconds=round(seconds, 1))
                child.kill()
                child.wait(seconds)
