"""Step 4 (`process`) of the flow: the current processor of a lane, with its context, from creation to close."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import TypeVar

import structlog

from dicom_adapter.api.errors import LedgerUnavailable, describe_failure
from dicom_adapter.api.values import Waiting
from dicom_adapter.flow.process import job_spans
from dicom_adapter.flow.process.context import Context
from dicom_adapter.flow.process.settings import LaneSettings
from dicom_adapter.flow.process.timers import Timers
from dicom_adapter.flow.process.turn import Committed, Required, Turn, Unavailable
from dicom_adapter.runtime.measures import TURN
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.process")

# A plugin may raise anything: SystemExit, asyncio's CancelledError, a panic of a library written in Rust.
# KeyboardInterrupt, which does not originate in the plugin, is never raised in a lane's thread.
PLUGIN_FAILURES = BaseException
EARLIEST = datetime.min.replace(tzinfo=timezone.utc)

T = TypeVar("T")


class RunningProcessor:
    """The current processor of a lane. Not thread-safe: used by the lane thread only."""

    def __init__(self, settings: LaneSettings, resources: Resources) -> None:
        """Create the processor. Raises the errors of the plugin."""
        self.ae_title = settings.ae_title
        self.delivered = 0  # id of the last instance that was delivered to the processor
        self._ledger, self._traces = resources.ledger, resources.traces
        self._durations = resources.counts.distribution(TURN, settings.ae_title)
        self._context = Context(settings, resources)
        self.processor = settings.processor(settings.settings, self._context)

    def open(self, now: datetime) -> None:
        """Open the processor. Raises the errors of the plugin."""
        self._context.opening_at = now
        self.processor.open()
        self._context.opening_at = None

    @property
    def timers(self) -> Timers:
        """The timers that the processor has set."""
        return self._context.timers

    def run_turn(self, now: datetime, call: Callable[[], T], required: Required | None) -> tuple[T, Committed | None]:
        """Call the processor, then commit its requests, if there are any. `required`: only for the turn of a timer."""
        started = time.monotonic()
        turn = self._context.begin(now)
        try:
            try:
                answer = call()
            finally:
                self._context.end()
            return answer, None if turn.is_empty else self._commit(turn, required)
        finally:
            self._durations.observe(time.monotonic() - started)

    def _commit(self, turn: Turn, required: Required | None) -> Committed:
        try:
            with self._ledger.write() as transaction:
                committed = turn.commit(transaction, self.delivered, required)
                spans = job_spans.start(self._traces, transaction, committed.jobs, turn.now)
        except LedgerUnavailable as failure:
            raise Unavailable from failure
        for span in spans:
            span.end(turn.now)
        return committed

    def waiting(self, limit: int) -> tuple[int, tuple[Waiting, ...]]:
        """Return the number of waiting groups, and at most `limit` groups for operators, in the order of due times."""
        try:
            count, groups = self.processor.waiting_soonest(limit)
            shown = [_check_group(group) for group in islice(groups, limit)]
            if not isinstance(count, int) or count < len(shown):
                raise TypeError("waiting_soonest() must return the number of all groups, and some of them")
            shown.sort(key=lambda group: timedelta.max if group.until is None else group.until - EARLIEST)
            return count, tuple(shown)
        except PLUGIN_FAILURES as failure:  # the groups are only displayed
            log.warning("processor_waiting_failed", ae_title=self.ae_title, error=describe_failure(failure))
            return 0, ()

    def close(self) -> None:
        """Close the processor."""
        try:
            self.processor.close()
        except PLUGIN_FAILURES as failure:
            log.warning("processor_close_failed", ae_title=self.ae_title, error=describe_failure(failure))


def _check_group(group: Waiting) -> Waiting:
    """Return the group. Raise TypeError for an invalid group: other code uses groups without catching errors."""
    if not isinstance(group, Waiting) or not isinstance(group.label, str) or not isinstance(group.instance_count, int):
        raise TypeError(
            "waiting() must return Waiting(label=<text>, instance_count=<whole number>, until=<time or None>)"
        )
    if not isinstance(group.problem, str):
        raise TypeError("waiting() must return Waiting(…, problem=<text>)")
    if group.until is not None:
        group.until.astimezone(timezone.utc)  # OverflowError for a time that UTC cannot represent
    return group
