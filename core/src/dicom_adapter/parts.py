"""Parts of the host that have something of their own to remember between two steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from dicom_adapter.clock import Clock
from dicom_adapter.errors import IllegalTransition
from dicom_adapter.flow.process import Lane
from dicom_adapter.flow.submit import Interrupted, Submission
from dicom_adapter.ledger import Ledger, jobs, lanes
from dicom_adapter.ledger.jobs import JobRow

log = structlog.get_logger("dicom_adapter.host")

Step = Callable[[], "datetime | None"]  # does what there is to do; returns when to be called again, None: when woken

AFTER_INTERRUPTION = timedelta(seconds=1)  # the step is repeated, unless the service has stopped by then
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
        self._lane.has_news = True

    def step(self) -> datetime | None:
        """Take all turns that are due."""
        while self._lane.step():
            self._report()
        self._report()
        unreported = self._lane.turns != self._told_turns
        wanted = [self._lane.next_turn_at(), self._told_at + REPORT_EVERY if unreported else None]
        return min((when for when in wanted if when is not None), default=None)

    def _report(self) -> None:
        """Write down what the lane holds back, not too often; a stop at once."""
        now = self._clock.now()
        stopped = self._lane.state is not self._told.state
        if not stopped and self._told_at <= now < self._told_at + REPORT_EVERY:
            return
        report = self._lane.describe()
        if report != self._told:
            with self._ledger.write() as transaction:
                lanes.save(transaction, report)
        self._told, self._told_at, self._told_turns = report, now, self._lane.turns

    def close(self) -> None:
        """Close the processor."""
        self._lane.close()


class JobQueue:
    """The jobs of one submitter: who takes one, keeps it until its next step has to wait."""

    def __init__(self, name: str, submission: Submission, ledger: Ledger, clock: Clock) -> None:
        self._name = name
        self._submission = submission
        self._ledger = ledger
        self._clock = clock
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    def step(self) -> datetime | None:
        """Carry one job as far as it goes; returns when the next one is due. Raises what opening the submitter does."""
        self._submission.open()
        row = self._take()
        if row is None:
            with self._ledger.read() as transaction:
                return jobs.next_attempt(transaction, self._name, self._clock.now())
        try:
            self._submission.advance(row)
        except IllegalTransition as refusal:
            log.info("job_changed_meanwhile", job_id=row.job.job_id, reason=str(refusal))
        except Interrupted:
            log.info("job_interrupted", job_id=row.job.job_id)
            return self._clock.now() + AFTER_INTERRUPTION
        finally:
            with self._lock:
                self._taken.discard(row.number)
        return self._clock.now()

    def close(self) -> None:
        """Close the submitter."""
        self._submission.close()

    def _take(self) -> JobRow | None:
        with self._lock:
            with self._ledger.read() as transaction:
                found = jobs.due(transaction, self._name, self._clock.now(), 1, self._taken)
            self._taken.update(row.number for row in found)
        return found[0] if found else None
