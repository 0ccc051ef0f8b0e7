"""The part of one table [notifications.<name>]: collects notices, and sends them when they are due.

Nothing waits for this part. Its state is a file, so each event of the ledger is reported at least once, also after a
restart. If the service stops between the message and the write of the file, the message is sent again with the same id.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import DicomAdapterError, Permanent, describe_failure
from dicom_adapter.api.notifier import Notice, Notifier
from dicom_adapter.config.model import Config
from dicom_adapter.config.notifications import NotificationConfig
from dicom_adapter.host.notifications.conditions import find_conditions, is_condition
from dicom_adapter.host.notifications.event_notices import EVENT_NAMES, notice_of, plain
from dicom_adapter.host.notifications.message import make_notification
from dicom_adapter.host.notifications.pending import Key, key_of
from dicom_adapter.host.notifications.schedule import Due, next_message
from dicom_adapter.host.notifications.state_file import NotificationState, StateFile
from dicom_adapter.ledger import Transaction, events, jobs, recorded_events
from dicom_adapter.ledger.health import PartState
from dicom_adapter.runtime.parts import Part, PartKind
from dicom_adapter.runtime.peer_health import FAILURES_TO_REPORT
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.watch import PartFinding

log = structlog.get_logger("dicom_adapter.host")

POLL_EVERY = timedelta(seconds=5)  # interval of polls for new events
CONDITIONS_EVERY = timedelta(seconds=60)  # a condition is reported if it is met twice in a row
PAGE = 1000  # maximum number of events that one step reads
FIRST_PAUSE = timedelta(seconds=5)  # after a failed message; doubles up to LONGEST_PAUSE
LONGEST_PAUSE = timedelta(minutes=10)


class NotificationPart:
    """Sends the messages of one table. Only one thread calls `step`; `finding` is thread-safe."""

    def __init__(
        self, name: str, config: Config, notifier: Notifier[Any], resources: Resources, state_file: StateFile
    ) -> None:
        """Neither read nor send anything: the first step does that."""
        self._name = name
        self._config = config
        self._table: NotificationConfig = config.notifications[name]
        self.notifier = notifier
        self._resources = resources
        self._state_file = state_file
        self._state: NotificationState | None = None
        self._conditions_at: datetime | None = None
        self._met: set[Key] = set()  # conditions that the last examination has found
        self._failures = 0  # number of consecutive failed messages
        self._retry_at: datetime | None = None
        self._problem = ""  # why messages cannot be sent, or the state cannot be written

    def finding(self) -> PartFinding:
        """Return the finding: degraded while messages cannot be sent."""
        problem = self._problem
        return PartFinding(state=PartState.DEGRADED, reason=problem) if problem else PartFinding()

    def step(self) -> datetime:
        """Read new events, and send a message if one is due."""
        now = self._resources.clock.now()
        state = self._state = self._state or self._begin()
        has_changed = self._read_events(state, now)
        if self._conditions_at is None or self._conditions_at <= now:
            self._conditions_at = now + CONDITIONS_EVERY
            has_changed |= self._examine_conditions(state, now)
        if has_changed:
            self._save(state)
        due = next_message(self._table, state.pending, state.last_sent)
        if due is None:
            return now + POLL_EVERY
        at = due.at if self._retry_at is None else max(due.at, self._retry_at)
        if at <= now:
            self._send(state, due, now)
            return now + POLL_EVERY
        return min(at, now + POLL_EVERY)

    def _begin(self) -> NotificationState:
        """Load the state. Without a state, only later events are reported."""
        with self._resources.ledger.read() as transaction:
            newest = recorded_events.last_number(transaction)
        state = self._state_file.load()
        if state is None:
            state = NotificationState(read_up_to=newest)
            self._save(state)
        elif state.read_up_to > newest:  # the ledger was restored from a backup, or replaced
            state.read_up_to = newest
        return state

    def _read_events(self, state: NotificationState, now: datetime) -> bool:
        """Add the notices of new events. Return whether there are any."""
        with self._resources.ledger.read() as transaction:
            newest = recorded_events.last_number(transaction)
            found = recorded_events.named_between(transaction, state.read_up_to, newest, EVENT_NAMES, PAGE)
            notices = [self._notice_of(transaction, event) for _number, event in found]
        state.read_up_to = found[-1][0] if len(found) == PAGE else newest
        wanted = [notice for notice in notices if self._is_wanted(notice)]
        for notice in wanted:
            state.pending.add(notice, now, recoveries=self._table.recoveries)
        return bool(wanted)

    @staticmethod
    def _notice_of(transaction: Transaction, event: events.Event) -> Notice:
        def find_job(job_id: str) -> Any:
            row = jobs.get(transaction, job_id)
            return None if row is None else row.job

        return notice_of(event, find_job)

    def _is_wanted(self, notice: Notice) -> bool:
        is_own = notice.subject == str(Part(PartKind.NOTIFICATION, self._name))
        return self._table.wants(notice.kind, notice.ae_title) and not is_own

    def _examine_conditions(self, state: NotificationState, now: datetime) -> bool:
        """Add conditions that were found twice in a row, and the ends of conditions that are not met any more."""
        found = find_conditions(self._config, self._table, self._resources, now)
        met = {key_of(notice): notice for notice in found if self._is_wanted(notice)}
        before, self._met = self._met, set(met)
        known = {**state.pending.reported, **dict.fromkeys(_lasting(state))}
        for key, notice in met.items():
            if key in known:
                state.pending.update(notice)
            elif key in before:
                state.pending.add(notice, now, recoveries=self._table.recoveries)
        ended = [key for key in known if is_condition(key[0], key[2]) and key not in met and key not in before]
        for kind, ae_title, subject in ended:
            over = Notice(
                kind=kind,
                ae_title=ae_title,
                subject=subject,
                text="the condition has ended",
                count=1,
                first_at=now,
                last_at=now,
                is_over=True,
            )
            state.pending.add(over, now, recoveries=self._table.recoveries)
        return bool(ended or met.keys() - known.keys())

    def _send(self, state: NotificationState, due: Due, now: datetime) -> None:
        try:
            self.notifier.send(make_notification(due.notices, state.notification_id, now))
        except Exception as failure:  # noqa: BLE001 - a plugin may raise anything; the message is sent later
            self._postpone(failure, len(due.notices), now)
            return
        self._failures, self._retry_at, self._problem = 0, None, ""
        state.pending.sent(due.notices)
        state.last_sent, state.number = now, state.number + 1
        self._save(state)
        log.info("notification_sent", notification=self._name, notices=len(due.notices))

    def _postpone(self, failure: Exception, notices: int, now: datetime) -> None:
        """Record a failed attempt. Attempts never end: waiting notices are merged, and their number is bounded."""
        # The messages of these errors have no patient data. Any other message is unknown.
        error = plain(str(failure)) if isinstance(failure, DicomAdapterError) else describe_failure(failure)
        self._failures += 1
        self._retry_at = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
        if self._failures >= FAILURES_TO_REPORT or isinstance(failure, Permanent):
            self._problem = f"{counted(notices, 'notice')} not sent: {error}"
        log.warning("notification_failed", notification=self._name, attempts=self._failures, error=error)

    def _save(self, state: NotificationState) -> None:
        """Write the state. If the disk is full, messages are sent nevertheless."""
        try:
            self._state_file.save(state)
        except OSError as failure:
            self._problem = f"its state cannot be written: {failure.strerror}; a restart may repeat or lose messages"
        else:
            if not self._failures:
                self._problem = ""


def _lasting(state: NotificationState) -> list[Key]:
    return [key for key, one in state.pending.notices.items() if not one.notice.is_over]
