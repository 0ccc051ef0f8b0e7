"""Watching what must not stop unnoticed: the workers of the host, the receiver's listener, the service's processes.

A process looks at its parts every second, from a thread that touches neither disk nor ledger, and logs what changes.
Another thread writes that to the ledger, with the time of the last look: so a ledger that is busy or full delays no
look, and a process that looks no longer can be told by its age.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from attrs import field, frozen
from sqlalchemy.exc import SQLAlchemyError

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.ledger import Ledger, events, health
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.health import PartHealth, PartState
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.deadline import TookTooLong, call_within
from dicom_adapter.runtime.workers import Condition, Worker

log = structlog.get_logger("dicom_adapter.watch")

LOOK_EVERY = timedelta(seconds=1)
WRITE_EVERY = timedelta(seconds=5)  # when nothing changes: the heartbeat
FAILURES_TO_REPORT = 3  # in a row: fewer pass without anybody's help, as a rule
CHANGES_KEPT = 100  # that are not yet written: a ledger that is full for long must not fill the memory
LAST_WORDS_SECONDS = 5.0  # that an orderly end waits for a busy ledger

# Seconds in which one step of a part must come to an end. A part's name begins with its kind.
DEADLINES = {
    "lane": 25.0,  # one turn of a processor, or half a second of turns; whoever hangs is told of within half a minute
    "notify": 30.0,  # reads the ledger for half a second
    "wake-ups": 30.0,  # waits for a few seconds
    "observer": 60.0,  # one call of an observer hook, which nothing waits for
    "reclaim": 120.0,  # deletes 500 objects, perhaps on a slow network
    "platform watch": 120.0,  # one question to the platform, which submitters limit to a fraction of that
    "submitter": 3600.0,  # uploads 32 files side by side; each has a deadline of the submitter's own, often minutes
}
OTHER_DEADLINE = 120.0


@frozen(kw_only=True)
class Finding:
    """How a part is found."""

    state: PartState = PartState.OK
    reason: str = field(default="", repr=False)


Look = Callable[[], Mapping[str, Finding]]


def deadline_of(part: str) -> float:
    """Seconds that a step of this part may take."""
    return next((limit for kind, limit in DEADLINES.items() if f"{part} ".startswith(f"{kind} ")), OTHER_DEADLINE)


def examine(part: str, conditions: Sequence[Condition]) -> Finding:
    """How a part is that these workers run: as the worst of them."""
    deadline = deadline_of(part)
    for condition in conditions:
        if condition.busy_since is not None and condition.busy_seconds > deadline:
            since = f"{condition.busy_since:%Y-%m-%d %H:%M:%S} UTC"
            return Finding(
                state=PartState.HANGS, reason=f"what it began at {since} has not returned, within {deadline:g} s"
            )
    worst = max(conditions, key=lambda condition: condition.failures)
    if worst.failures >= FAILURES_TO_REPORT:
        return Finding(state=PartState.FAILING, reason=f"failed {worst.failures} times in a row: {worst.error}")
    return Finding()


def with_slow(found: Mapping[str, Finding], slow: Mapping[str, str]) -> Mapping[str, Finding]:
    """What was found, and of the parts that work, whether a plugin was slow in them of late."""
    return {
        name: Finding(state=PartState.DEGRADED, reason=slow[name])
        if name in slow and finding.state is PartState.OK
        else finding
        for name, finding in found.items()
    }


class Watch:
    """Looks at the parts of one process, from `start` to `close`."""

    def __init__(self, look: Look, ledger: Ledger, clock: Clock) -> None:
        """`look` must return at once, whatever hangs."""
        self._look = look
        self._ledger = ledger
        self._clock = clock
        self._parts: Mapping[str, PartHealth] = {}  # replaced as a whole: the writer reads it
        self._changes: deque[Event] = deque(maxlen=CHANGES_KEPT)
        self._watcher = Worker("watch", self.look, clock)
        self._writer = Worker("health", self.write, clock)

    def start(self) -> None:
        """Look for the first time, then start both threads."""
        self.look()
        self._watcher.start()
        self._writer.start()

    def look(self) -> datetime:
        """Look at every part, log what has changed, and have that written."""
        now = self._clock.now()
        parts = {part: self._judge(part, finding, now) for part, finding in self._look().items()}
        states = {name: self._state_of(name) for name in parts}
        changed = [part for name, part in parts.items() if part.state is not states[name]]
        self._parts = parts
        for part in changed:
            self._tell(part, states[part.part], now)
        if changed:
            self._writer.wake()
        return now + LOOK_EVERY

    def _state_of(self, name: str) -> PartState:
        known = self._parts.get(name)
        return PartState.OK if known is None else known.state

    def _judge(self, name: str, finding: Finding, now: datetime) -> PartHealth:
        before = self._parts.get(name)
        since = before.since if before is not None and before.state is finding.state else now
        return PartHealth(part=name, state=finding.state, reason=finding.reason, since=since, seen_at=now)

    def _tell(self, part: PartHealth, before: PartState, now: datetime) -> None:
        if part.state is PartState.OK or (part.state is PartState.DEGRADED and before is not PartState.OK):
            log.info("part_recovered", part=part.part)
            self._note("part_recovered", part, now)
        if part.state is PartState.HANGS:
            log.error("part_hangs", part=part.part, reason=part.reason)
            self._note("part_hangs", part, now)
        elif part.state is PartState.FAILING:
            log.error("part_failing", part=part.part, reason=part.reason)
            self._note("part_failing", part, now)
        elif part.state is PartState.DEGRADED:
            log.warning("part_degraded", part=part.part, reason=part.reason)
            self._note("part_degraded", part, now)

    def _note(self, event: str, part: PartHealth, now: datetime) -> None:
        kind, _, ae_title = part.part.partition(" ")
        detail = {"part": part.part, "reason": part.reason}
        self._changes.append(Event(at=now, event=event, ae_title=ae_title if kind == "lane" else "", detail=detail))

    def write(self) -> datetime:
        """Write how the parts are, and what has changed since."""
        changes = list(self._changes)
        with self._ledger.write() as transaction:
            health.save(transaction, self._parts.values())
            events.record(transaction, changes)
        for change in changes:
            if self._changes and self._changes[0] is change:  # not when newer ones have pushed it out meanwhile
                self._changes.popleft()
        return self._clock.now() + WRITE_EVERY

    def close(self) -> None:
        """The process ends in order: look no longer, and write so, if the ledger takes it in time."""
        for worker in (self._watcher, self._writer):
            worker.stop()
        self._watcher.join(LAST_WORDS_SECONDS)
        now = self._clock.now()
        self._parts = {
            name: PartHealth(part=name, state=PartState.STOPPED, since=now, seen_at=now) for name in self._parts
        }
        try:
            call_within(LAST_WORDS_SECONDS, self.write)
        except (TookTooLong, SQLAlchemyError) as failure:
            log.warning("health_not_written", error=describe_failure(failure))
