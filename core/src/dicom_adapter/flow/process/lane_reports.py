"""Step 4 (`process`) of the flow: reports of lanes in the ledger, for decisions of receivers and for operators."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from dicom_adapter.ledger import lanes
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.runtime.resources import Resources

REPORT_EVERY = timedelta(seconds=0.5)  # time between two reports; a change of the state is reported immediately


class LaneReporter:
    """Writes the reports of one lane. Not thread-safe: used by the lane's thread only."""

    def __init__(self, first: LaneReport, resources: Resources) -> None:
        """Create the reporter of a lane whose report `first` is in the ledger already."""
        self._ledger = resources.ledger
        self._clock = resources.clock
        self._reported = first
        self._reported_at = resources.clock.now()
        self._reported_turns = 0

    def report(self, state: LaneState, since: datetime, turns: int, describe: Callable[[], LaneReport]) -> None:
        """Write a new report if the state has changed or the last report is old. Only then call `describe`."""
        now = self._clock.now()
        changed = (state, since) != (self._reported.state, self._reported.since)
        if not changed and self._reported_at <= now < self._reported_at + REPORT_EVERY:
            return
        report = describe()
        if report != self._reported:
            with self._ledger.write() as transaction:
                lanes.save(transaction, report)
        self._reported, self._reported_at, self._reported_turns = report, now, turns

    def next_report_at(self, turns: int) -> datetime | None:
        """Return when the next report is due; None if there was no turn since the last report."""
        return self._reported_at + REPORT_EVERY if turns != self._reported_turns else None
