"""The service: what `dicom-adapter run` supervises. One host, one or more receivers, and the order of their lives.

Start: the host first (it brings the ledger up to date and says which AE titles are served), then the receivers, which
load meanwhile.
Stop: the receivers first (no new associations, open ones finish), then the host. A process that dies is started again
after a pause; the others do not notice more than that. Another configuration is passed to all of them: see `reload`.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from attrs import asdict, define, evolve, frozen

from dicom_adapter.api.errors import Refused
from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.ledger.health import HOST, SERVICE, PartState, receiver_names
from dicom_adapter.runtime.channel import GONE, Child, Report, Start
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.parts import Part, process_part
from dicom_adapter.runtime.watch import PartFinding, Watch
from dicom_adapter.service.reload.requests import RELOAD, Asking, Begun
from dicom_adapter.service.reload.rollout import Passing
from dicom_adapter.service.reload.snapshot import Snapshot

log = structlog.get_logger("dicom_adapter.service")

HOST_MODULE = "dicom_adapter.host"
RECEIVER_MODULE = "dicom_adapter.receiver"
READY = frozenset({"ready", "listening"})  # what host and receivers report when they work
STOP, HANG_UP = "stop", "hang-up"  # what signals put to the queue
FIRST_PAUSE = 0.5  # seconds before a process that died is started again; doubles while it keeps dying
LONGEST_PAUSE = 30.0
HEALTHY_SECONDS = 60.0  # a process that has lived so long begins with the first pause again
DEATHS_TO_REPORT = 3  # in a row: fewer are past before anybody could have a look
HOST_STOP_SECONDS = 30.0


class CannotStart(Refused):
    """The service cannot start as configured."""


@frozen(kw_only=True)
class Blueprint:
    """What the processes are started with, the one that supervises included."""

    path: str  # of the configuration file
    configuration: str
    folder: str
    settings: Snapshot  # what the configuration says
    log_style: str
    port: int | None  # to listen on instead of the configured one
    storage_plugin: str  # the entry point that a receiver loads; it needs no other
    receivers: int
    ledger_url: str
    is_durable: bool  # what the ledger has survives a power loss
    log_level: str
    trace_hooks: bool = False  # log every call of a plugin
    stop_with_stdin: bool = False  # stop, too, when standard input ends

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Blueprint:
        """What `to_json` gave."""
        return cls(**{**found, "settings": Snapshot(**found["settings"])})

    def with_configuration(self, asked: Configuration) -> Blueprint:
        """The same with another configuration."""
        return evolve(self, configuration=asked.text, folder=asked.folder, settings=Snapshot(**asked.settings))

    @property
    def drain_seconds(self) -> float:
        """How long a stop waits for open associations."""
        return float(self.settings.service["dicom.drain-timeout"])


@define
class _Slot:
    """One process that has to be there."""

    name: str
    module: str
    number: int = 1  # of a receiver
    child: Child | None = None
    ahead: Child | None = None  # the first one, which loads while the host begins
    is_ready: bool = False
    started_at: float = 0.0
    pause: float = FIRST_PAUSE
    start_at: float | None = None  # when to start it again
    deaths: int = 0  # in a row, each before it was healthy
    last_status: int = 0  # of the last one
    is_ending: bool = False  # because it was asked to, and another one is to begin

    def died(self, status: int) -> None:
        """It has ended unasked."""
        healthy = self.is_healthy()
        self.deaths = 1 if healthy else self.deaths + 1
        self.pause = FIRST_PAUSE if healthy else min(LONGEST_PAUSE, self.pause * 2)
        self.last_status = status
        self.child = None
        self.is_ready = False
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

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        # Signal handlers put to it too: a SimpleQueue may be interrupted by its own `put`, a Queue would lock up.
        self._reports: queue.SimpleQueue[tuple[Any, Report]] = queue.SimpleQueue()
        self._host = _Slot(HOST, HOST_MODULE)
        names = enumerate(receiver_names(blueprint.receivers), start=1)
        self._receivers = [_Slot(name, RECEIVER_MODULE, number) for number, name in names]
        self._wake_read, self._wake_write = os.pipe()
        self._port = blueprint.port
        self._ledger: Ledger | None = None  # opened when the host has made it
        self._watch: Watch | None = None
        self._next: Blueprint | None = None  # that the host works with, or begins with; the receivers are yet to follow
        self._asking: Asking | None = None
        self._is_hung_up = False
        self._had_terminal = os.isatty(0)
        self._passing: Passing | None = None

    def run(self) -> None:
        """Start everything, keep it running, and stop it in order. Raises CannotStart."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reports.put((None, {"event": STOP})))
        signal.signal(signal.SIGHUP, lambda *_: self._reports.put((None, {"event": HANG_UP})))
        try:
            for slot in self._receivers:
                slot.ahead = self._make_child(slot)
            if self._begin([self._host]):
                self._ledger = Ledger(self._blueprint.ledger_url, durable=self._blueprint.is_durable)
                self._asking = self._make_asking(self._ledger)
                # The first receiver finds the port that the others share.
                first, *others = self._receivers
                if self._begin([first]) and self._begin(others):
                    self._watch = self._begin_watch(self._ledger)
                    self._asking.start()
                    self._supervise()
        finally:
            self._stop()

    def stop(self) -> None:
        """Have `run` end, from another thread."""
        self._reports.put((None, {"event": STOP}))

    # --- starting ---------------------------------------------------------------------------------------------------

    def _begin(self, slots: list[_Slot]) -> bool:
        """Start these for the first time; returns whether they work, and nobody wants to stop already."""
        for slot in slots:
            self._start(slot, first=slot in (self._host, self._receivers[0]))
        return self._wait_for(slots)

    def _start(self, slot: _Slot, *, first: bool) -> None:
        slot.child, slot.ahead = slot.ahead or self._make_child(slot), None
        slot.child.give(self._order(slot, first=first))
        slot.started_at = time.monotonic()
        slot.start_at = None
        log.info("process_started", name=slot.name, child=slot.child.pid)

    def _make_child(self, slot: _Slot) -> Child:
        return Child(slot.name, slot.module, self._wake_fd(slot), self._reports)

    def _wake_fd(self, slot: _Slot) -> int:
        return self._wake_read if slot is self._host else self._wake_write

    def _order(self, slot: _Slot, *, first: bool) -> Start:
        is_host = slot is self._host
        blueprint = (is_host and self._next) or self._blueprint
        return Start(
            configuration=blueprint.configuration,
            folder=blueprint.folder,
            log_style=blueprint.log_style,
            port=self._port,
            first=first,
            number=slot.number,
            trace_hooks=blueprint.trace_hooks,
            wake_fd=self._wake_fd(slot),
            plugins=None if is_host else [blueprint.storage_plugin],
        )

    def _wait_for(self, slots: list[_Slot]) -> bool:
        """Whether they work before a signal to stop. A process for which the disk is too full is started again."""
        may_pass: set[str] = set()  # those that failed for what may pass
        while not all(slot.is_ready for slot in slots):
            try:
                child, report = self._reports.get(timeout=self._until_next_start())
            except queue.Empty:
                self._start_what_is_due()
                continue
            if report["event"] == STOP:
                return False
            if report["event"] == "failed":
                if not report.get("may_pass", False):
                    raise CannotStart(report["reason"])
                may_pass.add(child.name)
            elif report["event"] == GONE and child.name in may_pass:
                may_pass.discard(child.name)
            elif report["event"] == GONE and any(slot.child is child for slot in slots):
                raise CannotStart(f"the {child.name} ended with status {report['status']}; the log says why")
            self._take(child, report)
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
        if report["event"] in READY:
            self._work(child, report)
        elif report["event"] == "failed":
            log.error("process_failed", name=child.name, reason=report["reason"])
            child.stop()  # a receiver that is deaf ends by that, and comes back
        elif report["event"] == GONE:
            self._bury(child, report["status"])
        elif report["event"] == HANG_UP:
            self._hang_up()
        elif report["event"] == RELOAD:
            self._passing = Passing(report["asked"], self)
        if self._passing is not None and child is not None:
            self._follow(self._passing, child, report)

    def _work(self, child: Child, report: Report) -> None:
        """A process works. The others share, and one that is started again comes back under, the port they know."""
        for slot in self._slots:
            if slot.child is child:
                slot.is_ready = True
        if "port" in report:
            self._port = report["port"]
            if all(slot.is_ready for slot in self._receivers):
                log.info("service_listening", port=self._port, pid=os.getpid())

    @property
    def _slots(self) -> Iterable[_Slot]:
        return (self._host, *self._receivers)

    def _bury(self, child: Child, status: int) -> None:
        for slot in self._slots:
            if slot.ahead is child:
                slot.ahead = None
            elif slot.child is child and slot.is_ending:
                slot.is_ending = slot.is_ready = False
                self._start(slot, first=False)
            elif slot.child is child:
                slot.died(status)
                log.error("process_died", name=slot.name, status=status, seconds_to_restart=slot.pause)

    def _until_next_start(self) -> float | None:
        times = [slot.start_at for slot in self._slots if slot.start_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _start_what_is_due(self) -> None:
        for slot in self._slots:
            if slot.start_at is not None and slot.start_at <= time.monotonic():
                self._start(slot, first=False)

    def _make_asking(self, ledger: Ledger) -> Asking:
        blueprint = self._blueprint
        begun = Begun(
            path=blueprint.path, text=blueprint.configuration, folder=blueprint.folder, settings=blueprint.settings
        )
        asking = Asking(begun, ledger, SystemClock(), lambda report: self._reports.put((None, report)))
        asking.begin()
        if self._is_hung_up:  # while the host began: the file that it has read may be an older one
            asking.hang_up()
        return asking

    def _begin_watch(self, ledger: Ledger) -> Watch:
        watch = Watch(self._examine, ledger, SystemClock())
        watch.start()
        return watch

    def _examine(self) -> Mapping[Part, PartFinding]:
        """How the processes live: what they cannot say of themselves."""
        troubles = [trouble for slot in self._slots if (trouble := slot.trouble())]
        if troubles:
            return {process_part(SERVICE): PartFinding(state=PartState.FAILING, reason="; ".join(troubles))}
        return {process_part(SERVICE): PartFinding()}

    # --- another configuration --------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        if self._had_terminal and not os.isatty(0):  # it was closed: what the signal means by itself
            self.stop()
            return
        self._is_hung_up = True
        if self._asking is not None:  # else it hears of it when it is there
            self._asking.hang_up()

    def _follow(self, passing: Passing, child: Child, report: Report) -> None:
        outcome = passing.hear(child.name, report)
        if outcome is not None and self._asking is not None:
            self._passing = None
            self._asking.finished(outcome)

    # As `Processes` says what they do.

    def give_host(self, asked: Configuration) -> bool:
        if self._host.child is None:
            return False
        self._next = self._blueprint.with_configuration(asked)
        self._host.child.give(self._order(self._host, first=False))
        return True

    def restart_host(self, asked: Configuration) -> bool:
        self._next = self._blueprint.with_configuration(asked)
        child = self._host.child
        if child is None:
            return False
        self._host.is_ending = True
        child.stop()
        killer = threading.Timer(HOST_STOP_SECONDS, child.kill)  # nothing happens when it has ended by then
        killer.daemon = True
        killer.start()
        return True

    def give_receivers(self) -> set[str]:
        assert self._next is not None  # the host works with it
        self._blueprint, self._next = self._next, None
        given = [slot for slot in self._receivers if slot.child is not None]
        for slot in given:
            assert slot.child is not None
            slot.child.give(self._order(slot, first=False))
        return {slot.name for slot in given}

    def renew_receiver(self, name: str) -> None:
        for slot in self._receivers:
            if slot.name == name and slot.child is not None:
                slot.child.stop()

    def go_back(self) -> None:
        self._next = None

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        log.info("service_stopping")
        if self._watch is not None:
            self._watch.close()
        if self._asking is not None:
            self._asking.close()
        self._end(self._receivers, self._blueprint.drain_seconds + 5)
        self._end([self._host], HOST_STOP_SECONDS)
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._ledger is not None:
            self._ledger.close()
        log.info("service_stopped")

    def _end(self, slots: Iterable[_Slot], seconds: float) -> None:
        """Ask all of them to end, wait for them that long, and kill what is left."""
        deadline = time.monotonic() + seconds
        for slot in slots:
            if slot.ahead is not None:  # it was given nothing to do
                slot.ahead.kill()
                slot.ahead.wait(seconds)
        children = [slot.child for slot in slots if slot.child is not None]
        for child in children:
            child.stop()
        for child in children:
            if not child.wait(max(0.0, deadline - time.monotonic())):
                log.warning("process_killed", name=child.name, after_seconds=seconds)
                child.kill()
                child.wait(seconds)
