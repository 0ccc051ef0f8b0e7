"""The service: what `dicom-adapter run` supervises. One host, one or more receivers, and the order of their lives.

Start: the host first (it brings the ledger up to date and says which AE titles are served), then the receivers.
Stop: the receivers first (no new associations, open ones finish), then the host. A process that dies is started again
after a pause; the others do not notice more than that.
"""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Mapping
from typing import Any

import structlog
from attrs import define, frozen

from dicom_adapter.child import GONE, Child, Report, Start
from dicom_adapter.clock import SystemClock
from dicom_adapter.config.model import Config
from dicom_adapter.errors import Refused
from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.health import SERVICE, PartState
from dicom_adapter.stores import open_ledger
from dicom_adapter.watch import Finding, Watch

log = structlog.get_logger("dicom_adapter.service")

HOST = "dicom_adapter.host_process"
RECEIVER = "dicom_adapter.receiver"
STOP = "stop"  # what a signal puts to the queue
FIRST_PAUSE = 0.5  # seconds before a process that died is started again; doubles while it keeps dying
LONGEST_PAUSE = 30.0
HEALTHY_SECONDS = 60.0  # a process that has lived so long begins with the first pause again
DEATHS_TO_REPORT = 3  # in a row: fewer are past before anybody could have a look
HOST_STOP_SECONDS = 30.0


class CannotStart(Refused):
    """The service cannot start as configured."""


@frozen(kw_only=True)
class Blueprint:
    """What the processes are started with."""

    configuration: str
    folder: str
    log_style: str
    port: int | None  # to listen on instead of the configured one
    storage_plugin: str  # the entry point that a receiver loads; it needs no other


@define
class _Slot:
    """One process that has to be there."""

    name: str
    module: str
    child: Child | None = None
    started_at: float = 0.0
    pause: float = FIRST_PAUSE
    start_at: float | None = None  # when to start it again
    deaths: int = 0  # in a row, each before it was healthy
    last_status: int = 0  # of the last one

    def died(self, status: int) -> None:
        """It has ended unasked."""
        healthy = self.is_healthy()
        self.deaths = 1 if healthy else self.deaths + 1
        self.pause = FIRST_PAUSE if healthy else min(LONGEST_PAUSE, self.pause * 2)
        self.last_status = status
        self.child = None
        self.start_at = time.monotonic() + self.pause

    def is_healthy(self) -> bool:
        """Whether it has lived for so long that its deaths are past."""
        return self.child is not None and time.monotonic() - self.started_at > HEALTHY_SECONDS

    def trouble(self) -> str:
        """Why somebody should look at it; "" when nobody has to."""
        if self.deaths < DEATHS_TO_REPORT or self.is_healthy():
            return ""
        return f"the {self.name} died {self.deaths} times in a row, the last time with status {self.last_status}"


class Service:
    """Runs until a signal. Used by the main thread."""

    def __init__(self, config: Config, blueprint: Blueprint) -> None:
        self._config = config
        self._blueprint = blueprint
        # Signal handlers put to it too: a SimpleQueue may be interrupted by its own `put`, a Queue would lock up.
        self._reports: queue.SimpleQueue[tuple[Any, Report]] = queue.SimpleQueue()
        self._host = _Slot("host", HOST)
        self._receiver = _Slot("receiver", RECEIVER)
        self._wake_read, self._wake_write = os.pipe()
        self._port = blueprint.port
        self._ledger: Ledger | None = None  # opened when the host has made it
        self._watch: Watch | None = None

    def run(self) -> None:
        """Start everything, keep it running, and stop it in order. Raises CannotStart."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reports.put((None, {"event": STOP})))
        try:
            self._start(self._host, first=True)
            if self._wait_for(self._host, "ready"):
                self._start(self._receiver, first=True)
                if self._wait_for(self._receiver, "listening"):
                    self._begin_watch()
                    self._supervise()
        finally:
            self._stop()

    def stop(self) -> None:
        """Have `run` end, from another thread."""
        self._reports.put((None, {"event": STOP}))

    # --- starting ---------------------------------------------------------------------------------------------------

    def _start(self, slot: _Slot, *, first: bool) -> None:
        is_host = slot is self._host
        start = Start(
            configuration=self._blueprint.configuration,
            folder=self._blueprint.folder,
            log_style=self._blueprint.log_style,
            port=self._port,
            first=first,
            wake_fd=self._wake_read if is_host else self._wake_write,
            plugins=None if is_host else [self._blueprint.storage_plugin],
        )
        slot.child = Child(slot.name, slot.module, start, self._reports)
        slot.started_at = time.monotonic()
        slot.start_at = None
        log.info("process_started", name=slot.name, child=slot.child.pid)

    def _wait_for(self, slot: _Slot, event: str) -> bool:
        """Whether that came before a signal to stop. A process for which the disk is too full is started again."""
        may_pass = False  # what it failed for
        while True:
            try:
                child, report = self._reports.get(timeout=self._until_next_start())
            except queue.Empty:
                self._start_what_is_due()
                may_pass = False
                continue
            if report["event"] == STOP:
                return False
            if report["event"] == "failed":
                may_pass = report.get("may_pass", False)
                if not may_pass:
                    raise CannotStart(report["reason"])
            if report["event"] == GONE and child is slot.child and not may_pass:
                raise CannotStart(f"the {slot.name} ended with status {report['status']}; the log says why")
            self._take(child, report)
            if report["event"] == event and child is slot.child:
                return True

    # --- running ----------------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while True:
            try:
                child, report = self._reports.get(timeout=self._until_next_start())
            except queue.Empty:
                self._start_what_is_due()
                continue
            if report["event"] == STOP:
                return
            self._take(child, report)

    def _take(self, child: Child, report: Report) -> None:
        if report["event"] == "listening":
            self._listening(report["port"])
        elif report["event"] == "failed":
            log.error("process_failed", name=child.name, reason=report["reason"])
            child.stop()  # a receiver that is deaf ends by that, and comes back
        elif report["event"] == GONE:
            self._bury(child, report["status"])

    def _listening(self, port: int) -> None:
        # A receiver that is started again comes back under the port that senders know.
        self._port = port
        log.info("service_listening", port=port, pid=os.getpid())

    def _bury(self, child: Child, status: int) -> None:
        for slot in (self._host, self._receiver):
            if slot.child is child:
                slot.died(status)
                log.error("process_died", name=slot.name, status=status, seconds_to_restart=slot.pause)

    def _until_next_start(self) -> float | None:
        times = [slot.start_at for slot in (self._host, self._receiver) if slot.start_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _start_what_is_due(self) -> None:
        for slot in (self._host, self._receiver):
            if slot.start_at is not None and slot.start_at <= time.monotonic():
                self._start(slot, first=False)

    def _begin_watch(self) -> None:
        self._ledger = open_ledger(self._config)
        self._watch = Watch(self._examine, self._ledger, SystemClock())
        self._watch.start()

    def _examine(self) -> Mapping[str, Finding]:
        """How the processes live: what they cannot say of themselves."""
        troubles = [trouble for slot in (self._host, self._receiver) if (trouble := slot.trouble())]
        if troubles:
            return {SERVICE: Finding(state=PartState.FAILING, reason="; ".join(troubles))}
        return {SERVICE: Finding()}

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        log.info("service_stopping")
        if self._watch is not None:
            self._watch.close()
        self._end(self._receiver, self._config.dicom.drain_timeout + 5)
        self._end(self._host, HOST_STOP_SECONDS)
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._ledger is not None:
            self._ledger.close()
        log.info("service_stopped")

    def _end(self, slot: _Slot, seconds: float) -> None:
        if slot.child is None:
            return
        slot.child.stop()
        if not slot.child.wait(seconds):
            log.warning("process_killed", name=slot.name, after_seconds=seconds)
            slot.child.kill()
            slot.child.wait(seconds)
