"""A lane, and what receivers and operators are told of it through the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, TypeVar

from dicom_adapter.flow.process.lane import Lane
from dicom_adapter.flow.process.settings import LaneSettings
from dicom_adapter.ledger import Ledger, lanes
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.workers import SLICE_SECONDS

T = TypeVar("T")

REPORT_EVERY = timedelta(seconds=0.5)  # at the most, a lane writes down what it holds back


class ServedLane:
    """A lane, and what receivers and operators are told of it through the ledger."""

    def __init__(self, lane: Lane, ledger: Ledger, clock: Clock) -> None:
        self._lane = lane
        self._ledger = ledger
        self._clock = clock
        self._told = lane.describe()
        self._told_at = clock.now()
        self._told_turns = 0

    def expect_news(self) -> None:
        """Something arrived for this lane. From any thread."""
        self._lane.expect_news()

    def describe(self) -> LaneReport:
        """The lane as it is now. From the thread that takes its steps."""
        return self._lane.describe()

    def ask(self, function: Callable[[Any], T], *, is_notice: bool = False) -> Future[T]:
        """Ask the processor as a turn; a notice must not fail. From any thread."""
        return self._lane.requests.add(function, is_notice=is_notice)

    def restart(self) -> None:
        """Have the lane begin again. From one thread."""
        self._lane.restarts_wanted += 1

    def exchange(self, settings: LaneSettings) -> Future[None]:
        """Have the lane go on with another processor; done when it does. From any thread."""
        return self._lane.exchange(settings)

    def step(self) -> datetime | None:
        """Take the turns that are due; what a step has no time for follows in the next one."""
        end = time.monotonic() + SLICE_SECONDS
        while self._lane.step():
            self._report()
            if time.monotonic() >= end:
                return self._clock.now()
        self._report()
        unreported = self._lane.turns != self._told_turns
        wanted = [self._lane.next_turn_at(), self._told_at + REPORT_EVERY if unreported else None]
        return min((when for when in wanted if when is not None), default=None)

    def _report(self) -> None:
        """Write down what the lane holds back, not too often; another state at once."""
        now = self._clock.now()
        changed = (self._lane.state, self._lane.since) != (self._told.state, self._told.since)
        if not changed and self._told_at <= now < self._told_at + REPORT_EVERY:
            return
        report = self._lane.describe()
        if report != self._told:
            with self._ledger.write() as transaction:
                lanes.save(transaction, report)
        self._told, self._told_at, self._told_turns = report, now, self._lane.turns

    def refuse_requests(self) -> None:
        """Answer whatever the processor is asked and has not begun, now and from now on. From any thread."""
        self._lane.requests.close()

    def close(self) -> None:
        """Close the processor."""
        self._lane.close()
