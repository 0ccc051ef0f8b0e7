"""Step 5 (`submit`) of the flow: the job queue of a submitter, which determines which job runs its next step."""

from __future__ import annotations

import random
import threading
from datetime import datetime, timedelta

import structlog
from attrs import Factory, define

from dicom_adapter.api.errors import IllegalTransition
from dicom_adapter.flow.submit.scheduling import Breaker, Retries, choose
from dicom_adapter.flow.submit.steps import Interrupted, PlatformContact
from dicom_adapter.flow.submit.submission import StepResult, Submission
from dicom_adapter.ledger import jobs
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.host")

AFTER_INTERRUPTION = timedelta(seconds=1)  # pause before an interrupted step is repeated, if the service still runs
POLL_EVERY = timedelta(seconds=2)  # time between two polls of the ledger for jobs that an operator retries or cancels


@define(eq=False)
class InFlight:
    """The numbers of the jobs of one submitter whose step is in progress, and the lock under which jobs are chosen.

    A queue shares this object with the queue that replaces it, so that a job never runs two steps at the same time.
    """

    numbers: set[int] = Factory(set)
    lock: threading.Lock = Factory(threading.Lock)


class JobQueue:
    """The jobs of one submitter. Each call of `step` chooses one job and runs one step of it. Thread-safe."""

    def __init__(
        self,
        name: str,
        submission: Submission,
        retries: Retries,
        resources: Resources,
        poll_every: timedelta = POLL_EVERY,
        in_flight: InFlight | None = None,
    ) -> None:
        """Create a queue. `in_flight` is that of the replaced queue, which still completes its steps in progress."""
        self._name = name
        self._submission = submission
        self._retries = retries
        self._poll_every = poll_every
        self._ledger, self._clock = resources.ledger, resources.clock
        self.in_flight = in_flight or InFlight()
        self._served: dict[str, int] = {}  # for each AE title, the number of the last choice of one of its jobs
        self._choices = 0  # number of choices so far
        self._breaker = Breaker()

    def step(self) -> datetime | None:
        """Run one step of one job. Return the time of the next call. Raises the errors of `Submitter.open`."""
        self._submission.open()
        row = self._acquire()
        if row is None:
            return self._next_poll()
        try:
            self._update_breaker(row, self._submission.run_step(row))
        except IllegalTransition as refusal:
            log.info("job_changed_meanwhile", job_id=row.job.job_id, reason=str(refusal))
        except Interrupted:
            log.info("job_interrupted", job_id=row.job.job_id)
            return self._clock.now() + AFTER_INTERRUPTION
        finally:
            with self.in_flight.lock:
                self.in_flight.numbers.discard(row.number)
        return self._clock.now()

    def _acquire(self) -> JobRow | None:
        now = self._clock.now()
        with self.in_flight.lock:
            if self._breaker.is_down and not self._breaker.may_try(now, trying=len(self.in_flight.numbers)):
                return None
            row = self._choose(now)
            if row is not None:
                self.in_flight.numbers.add(row.number)
                self._served[row.job.ae_title] = self._choices
                self._choices += 1
        return row

    def _choose(self, now: datetime) -> JobRow | None:
        with self._ledger.read() as transaction:
            if not self._breaker.is_down:
                latest = now + self._retries.longest
                candidates = jobs.queue_heads(transaction, self._name, now, self.in_flight.numbers, latest)
                return choose(candidates, self._served, self._choices)
            # While the platform is down, only the pause of the breaker counts: jobs try in the order of the queue.
            tried = self._breaker.tried
            row = choose(jobs.queue_heads(transaction, self._name, None, tried), self._served, self._choices)
            if row is None:
                tried.clear()
                row = choose(jobs.queue_heads(transaction, self._name, None), self._served, self._choices)
            if row is not None:
                tried.add(row.number)
            return row

    def _update_breaker(self, row: JobRow, result: StepResult) -> None:
        """Determine from a step whether the platform is available."""
        if result.platform is PlatformContact.ANSWERED:
            self._close_breaker()
            return
        with self.in_flight.lock:
            pause = self._retries.pause(self._breaker.failures + 1, random.random())  # noqa: S311 - spreads load
            if result.platform is PlatformContact.FAILED:
                self._breaker.step_failed(row.number, self._clock.now(), pause)
            else:
                self._breaker.inconclusive(self._clock.now(), pause)
        self._postpone_until_retry(result.row)

    def _close_breaker(self) -> None:
        with self.in_flight.lock:
            has_recovered = self._breaker.succeeded()
        if has_recovered:
            log.info("platform_recovered", submitter=self._name)
            with self._ledger.write() as transaction:
                jobs.clear_backoff(transaction, self._name)

    def _postpone_until_retry(self, row: JobRow) -> None:
        open_until = self._breaker.open_until
        if open_until is not None and row.job.next_attempt_at is not None and row.job.next_attempt_at < open_until:
            # Record the time of the actual next attempt: operators see it, and a restart uses it.
            with self._ledger.write() as transaction:
                jobs.change(transaction, row, next_attempt_at=open_until)

    def _next_poll(self) -> datetime:
        """Return the time of the next poll: requests of operators appear in the ledger without a notification."""
        now = self._clock.now()
        with self._ledger.read() as transaction:
            postponed = jobs.next_attempt(transaction, self._name, now)
        times = [when for when in (postponed, self._breaker.open_until) if when is not None and when > now]
        return min([*times, now + self._poll_every])
