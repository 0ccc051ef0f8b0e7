"""Watch the parts of a process: the workers of the host, the listener of a receiver, the processes of the service.

A process examines its parts every second, on a thread that uses neither disk nor ledger, and logs each change. Another
thread writes the result to the ledger, with the time of the last examination. So a busy or full ledger does not delay
an examination, and if a process stops examining, its rows in the ledger become old.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from attrs import field, frozen

from dicom_adapter.api.errors import LedgerError, describe_failure
from dicom_adapter.ledger import events, health
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.health import PartHealth, PartState
from dicom_adapter.ledger.ledger_file import LedgerFile
from dicom_adapter.runtime import logs
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.deadline import TookTooLong, call_within
from dicom_adapter.runtime.parts import Part, PartKind
from dicom_adapter.runtime.peer_health import FAILURES_TO_REPORT
from dicom_adapter.runtime.workers import Condition, Worker

log = structlog.get_logger("dicom_adapter.watch")

EXAMINE_EVERY = timedelta(seconds=1)
WRITE_EVERY = timedelta(seconds=5)  # maximum time between two writes to the ledger, even if nothing changes
MAX_UNWRITTEN = 100  # maximum number of changes in memory while the ledger is full
CLOSE_SECONDS = 5.0  # time limit for a busy ledger when the process ends


@frozen(kw_only=True)
class PartFinding:
    """The result of examining a part."""

    state: PartState = PartState.OK
    reason: str = field(default="", repr=False)


Examine = Callable[[], Mapping[Part, PartFinding]]


def examine(part: Part, conditions: Sequence[Condition]) -> PartFinding:
    """Return the finding for a part: the finding for its worker in the worst condition."""
    deadline = part.kind.deadline_seconds
    for condition in conditions:
        if condition.busy_since is not None and condition.busy_seconds > deadline:
            since = f"{condition.busy_since:%Y-%m-%d %H:%M:%S} UTC"
            return PartFinding(
                state=PartState.HANGS, reason=f"the call that began at {since} has not returned within {deadline:g} s"
            )
    worst = max(conditions, key=lambda condition: condition.failures)
    if worst.failures >= FAILURES_TO_REPORT:
        return PartFinding(state=PartState.FAILING, reason=f"failed {worst.failures} times in a row: {worst.error}")
    return PartFinding()


def with_slow(findings: Mapping[Part, PartFinding], slow: Mapping[Part, str]) -> Mapping[Part, PartFinding]:
    """Return the findings. Working parts in which a plugin was slow recently are degraded."""
    return {
        part: PartFinding(state=PartState.DEGRADED, reason=slow[part])
        if part in slow and finding.state is PartState.OK
        else finding
        for part, finding in findings.items()
    }


def with_log_problem(findings: Mapping[Part, PartFinding], problem: str) -> Mapping[Part, PartFinding]:
    """Return the findings. A working process is degraded by a problem of its log, which the log cannot show."""
    return with_slow(findings, {part: problem for part in findings if problem and part.kind is PartKind.PROCESS})


class Watch:
    """Watch of the parts of one process, from `start` to `close`."""

    def __init__(
        self,
        examine_parts: Examine,
        ledger: LedgerFile,
        clock: Clock,
        log_problem: Callable[[], str] = logs.problem,
        report_alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Watch the parts that `examine_parts` returns. The function must return at once, even if a part hangs.

        `report_alive` is called after each examination, for the supervisor.
        """
        self._report_alive = report_alive
        self._examine_parts = examine_parts
        self._log_problem = log_problem
        self._ledger = ledger
        self._clock = clock
        self._parts: Mapping[Part, PartHealth] = {}  # replaced as a whole, because the writer reads it
        self._changes: deque[Event] = deque(maxlen=MAX_UNWRITTEN)
        self._examiner = Worker("watch", self.examine, clock)
        self._writer = Worker("health", self.write, clock)

    def start(self) -> None:
        """Examine the parts for the first time, then start both threads."""
        self.examine()
        self._examiner.start()
        self._writer.start()

    def examine(self) -> datetime:
        """Examine every part, log the changes, and wake the thread that writes them."""
        now = self._clock.system_time()  # commands compare this time with the time of their process
        findings = with_log_problem(self._examine_parts(), self._log_problem())
        parts = {part: self._health_of(part, finding, now) for part, finding in findings.items()}
        states = {part: self._state_of(part) for part in parts}
        changed = [part for part, part_health in parts.items() if part_health.state is not states[part]]
        self._parts = parts
        for part in changed:
            self._report(part, parts[part], states[part], now)
        if changed:
            self._writer.wake()
        self._report_alive()
        return self._clock.now() + EXAMINE_EVERY

    def _state_of(self, part: Part) -> PartState:
        known = self._parts.get(part)
        return PartState.OK if known is None else known.state

    def _health_of(self, part: Part, finding: PartFinding, now: datetime) -> PartHealth:
        before = self._parts.get(part)
        since = before.since if before is not None and before.state is finding.state else now
        pid = os.getpid() if part.kind is PartKind.PROCESS else None
        return PartHealth(part=str(part), state=finding.state, reason=finding.reason, since=since, seen_at=now, pid=pid)

    def _report(self, part: Part, found: PartHealth, before: PartState, now: datetime) -> None:
        if part.kind is PartKind.PLATFORM and PartState.FAILING in (found.state, before):
            self._report_platform(part, found, now)
            return
        if found.state is PartState.OK or (found.state is PartState.DEGRADED and before is not PartState.OK):
            log.info("part_recovered", part=found.part)
            self._record("part_recovered", part, found, now)
        if found.state is PartState.HANGS:
            log.error("part_hangs", part=found.part, reason=found.reason)
            self._record("part_hangs", part, found, now)
        elif found.state is PartState.FAILING:
            log.error("part_failing", part=found.part, reason=found.reason)
            self._record("part_failing", part, found, now)
        elif found.state is PartState.DEGRADED:
            log.warning("part_degraded", part=found.part, reason=found.reason)
            self._record("part_degraded", part, found, now)

    def _report_platform(self, part: Part, found: PartHealth, now: datetime) -> None:
        if found.state is PartState.FAILING:
            log.error("platform_down", part=found.part, reason=found.reason)
            self._record("platform_down", part, found, now)
        else:
            log.info("platform_up", part=found.part)
            self._record("platform_up", part, found, now)

    def _record(self, event: str, part: Part, found: PartHealth, now: datetime) -> None:
        ae_title = part.name if part.kind is PartKind.LANE else ""
        detail = {"part": found.part, "reason": found.reason}
        self._changes.append(Event(at=now, event=event, ae_title=ae_title, detail=detail))

    def write(self) -> datetime:
        """Write the health of all parts, and the changes since the last call, to the ledger."""
        changes = list(self._changes)
        with self._ledger.write() as transaction:
            health.save(transaction, self._parts.values())
            events.record(transaction, changes)
        for change in changes:
            if self._changes and self._changes[0] is change:  # otherwise newer changes have displaced it
                self._changes.popleft()
        return self._clock.now() + WRITE_EVERY

    def close(self) -> None:
        """Stop examining, and record that all parts are stopped, if the ledger is available in time."""
        for worker in (self._examiner, self._writer):
            worker.stop()
        self._examiner.join(CLOSE_SECONDS)
        now = self._clock.system_time()
        self._parts = {
            part: PartHealth(part=str(part), state=PartState.STOPPED, since=now, seen_at=now) for part in self._parts
        }
        try:
            call_within(CLOSE_SECONDS, self.write)
        except (TookTooLong, LedgerError) as failure:
            log.warning("health_write_failed", error=describe_failure(failure))
