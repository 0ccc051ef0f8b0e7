"""Step 5 (`submit`) of the flow: the job queue of a submitter, which determines which job runs its next step."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from attrs import Factory, define, frozen

from dicom_adapter.api.errors import IllegalTransition
from dicom_adapter.api.values import JobState
from dicom_adapter.flow.submit.scheduling import Breaker, Retries, choose, hold_back
from dicom_adapter.flow.submit.steps import PlatformContact
from dicom_adapter.flow.submit.submission import StepResult, Submission
from dicom_adapter.flow.submit.uploading import Interrupted
from dicom_adapter.ledger import Transaction, jobs
from dicom_adapter.ledger.begun_jobs import HeldBack, begun
from dicom_adapter.ledger.health import PartState
from dicom_adapter.ledger.jobs import RANKS, JobRow
from dicom_adapter.runtime.peer_health import DOWN_AFTER, PROBE_EVERY
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.watch import PartFinding

log = structlog.get_logger("dicom_adapter.host")

AFTER_INTERRUPTION = timedelta(seconds=1)  # pause before an interrupted step is repeated, if the service still runs
POLL_EVERY = timedelta(seconds=2)  # time between two polls of the ledger for jobs that an operator retries or cancels


SLOW_STATES = (JobState.CREATED, JobState.METADATA_SENT, JobState.RUNNING)  # the steps of these jobs read or send files


@frozen
class StepInProgress:
    """A step of a job that has begun and has not ended."""

    job_id: str
    state: JobState
    rank: int  # of the job's priority
    since: datetime


@define(eq=False)
class InFlight:
    """The steps of the jobs of one submitter that are in progress, and the lock under which jobs are chosen.

    A queue shares this object with the queue that replaces it, so that a job never runs two steps at the same time.
    """

    steps: dict[int, StepInProgress] = Factory(dict)  # by the number of the job
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
        max_running: int | None = None,
        parallel: int = 1,
    ) -> None:
        """Create a queue. `in_flight` is that of the replaced queue, which still completes its steps in progress.

        `max_running`: number of jobs that may run at the same time; None: no limit. `parallel`: number of jobs that may
        be prepared (uploaded, but not started) while `max_running` jobs run.
        """
        self._name = name
        self._submission = submission
        self._retries = retries
        self._poll_every = poll_every
        self._max_running, self._parallel = max_running, parallel
        self._ledger, self._clock = resources.ledger, resources.clock
        self.in_flight = in_flight or InFlight()
        self._served: dict[str, int] = {}  # by AE title: the value of `_choices` when one of its jobs was last chosen
        self._choices = 0  # number of choices so far
        self._at_limit = ""  # why no further job is started; "" if another one may be started
        self._breaker = Breaker()
        # Time of the last try: the end of a call of the platform, or the choice of a postponed job
        self._tried_at = self._clock.now()

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
                self.in_flight.steps.pop(row.number, None)
        return self._clock.now()

    def finding(self) -> PartFinding:
        """Return whether the platform is down, or does not answer a call in progress. Returns at once. Thread-safe.

        If the limit of running jobs is reached, the reason names the limit, and the state is OK.
        """
        problem = self._breaker.health.problem
        if problem:
            return PartFinding(state=PartState.FAILING, reason=problem)
        earliest = self._clock.now() - DOWN_AFTER
        for step in list(self.in_flight.steps.values()):
            if step.since <= earliest:
                state = PartState.DEGRADED if step.state in SLOW_STATES else PartState.FAILING
                since = f"{step.since:%Y-%m-%d %H:%M:%S} UTC"
                reason = f"a step of job {step.job_id} ({step.state.value}) has been in progress since {since}"
                return PartFinding(state=state, reason=reason)
        return PartFinding(reason=self._at_limit)

    def _acquire(self) -> JobRow | None:
        now = self._clock.now()
        with self.in_flight.lock:
            if self._breaker.is_open and not self._breaker.may_try(now, trying=len(self.in_flight.steps)):
                return None
            with self._ledger.read() as transaction:
                is_open = self._breaker.is_open
                held = self._held_back(transaction)
                row = self._choose_in_turn(transaction, held) if is_open else self._choose(transaction, now, held)
            if row is not None:
                self.in_flight.steps[row.number] = StepInProgress(
                    row.job.job_id, row.job.state, RANKS[row.job.priority], now
                )
                self._served[row.job.ae_title] = self._choices
                self._choices += 1
        return row

    def _held_back(self, transaction: Transaction) -> HeldBack | None:
        """Return which jobs have to wait because too many jobs run; None if no job has to."""
        if self._max_running is None:
            return None
        steps = self.in_flight.steps
        # The next step of a job in state UPLOADED starts it; that of a job in state QUEUED creates it on the platform.
        starting = [number for number, step in steps.items() if step.state is JobState.UPLOADED]
        creating = [step.rank for step in steps.values() if step.state is JobState.QUEUED]
        held = hold_back(begun(transaction, self._name), starting, creating, self._max_running, self._parallel)
        self._at_limit = "" if held is None else self._describe_limit(len(held.may_start))
        return held

    def _describe_limit(self, count: int) -> str:
        jobs_are = "job of submitter {} is" if self._max_running == 1 else "jobs of submitter {} are"
        return f"{count} of {self._max_running} {jobs_are.format(self._name)} running"

    def _choose(self, transaction: Transaction, now: datetime, held: HeldBack | None) -> JobRow | None:
        """Choose a job that is due; or a postponed job, if the last try is at least PROBE_EVERY ago."""
        # A job whose next attempt is later than this is due now: the clock was put back.
        latest = now + self._retries.longest
        busy = list(self.in_flight.steps)
        row = self._most_urgent(jobs.queue_heads(transaction, self._name, now, busy, latest, unless=held))
        if row is None and not self.in_flight.steps and now >= self._tried_at + PROBE_EVERY:
            self._tried_at = now
            row = self._most_urgent(jobs.queue_heads(transaction, self._name, None, busy, unless=held))
        return row

    def _choose_in_turn(self, transaction: Transaction, held: HeldBack | None) -> JobRow | None:
        """Choose the jobs one after another while the breaker is open. Its pause replaces the pauses of the jobs."""
        tried = self._breaker.tried
        row = self._most_urgent(jobs.queue_heads(transaction, self._name, None, tried, unless=held))
        if row is None:
            tried.clear()
            row = self._most_urgent(jobs.queue_heads(transaction, self._name, None, unless=held))
        if row is not None:
            tried.add(row.number)
        elif not self._has_work(transaction):
            self._breaker.succeeded()  # no job waits for the platform
        return row

    def _has_work(self, transaction: Transaction) -> bool:
        """Return whether a job has a step to do, even if it is held back or postponed."""
        return bool(jobs.queue_heads(transaction, self._name, None))

    def _most_urgent(self, candidates: Iterable[JobRow]) -> JobRow | None:
        return choose(candidates, self._served, self._choices)

    def _update_breaker(self, row: JobRow, result: StepResult) -> None:
        """Determine from a step whether the platform is available."""
        if result.platform is not PlatformContact.UNKNOWN:
            self._tried_at = self._clock.now()
        if result.platform is PlatformContact.ANSWERED:
            self._close_breaker()
            return
        with self.in_flight.lock:
            failures = self._breaker.health.failures
            pause = self._retries.pause(failures + 1, random.random())  # noqa: S311 - spreads load
            if result.platform is PlatformContact.FAILED:
                self._breaker.step_failed(row.number, self._clock.now(), pause, result.error)
            else:
                self._breaker.inconclusive(self._clock.now(), pause)
        self._record_next_attempt(result)

    def _close_breaker(self) -> None:
        with self.in_flight.lock:
            has_recovered = self._breaker.succeeded()
        if has_recovered:
            with self._ledger.write() as transaction:
                jobs.clear_backoff(transaction, self._name)

    def _record_next_attempt(self, result: StepResult) -> None:
        """Record the time of the actual next attempt: operators see it, and a restart uses it."""
        now, planned, actual = self._clock.now(), result.row.job.next_attempt_at, self._breaker.open_until
        if planned is None:
            return
        if actual is None and (self._breaker.health.is_down or result.platform is PlatformContact.UNKNOWN):
            actual = min(planned, now + PROBE_EVERY)  # perhaps earlier: the cause may end at any time
        if actual is not None and actual != planned:
            with self._ledger.write() as transaction:
                jobs.change(transaction, result.row, next_attempt_at=actual)

    def _next_poll(self) -> datetime:
        """Return the time of the next poll: requests of operators appear in the ledger without a notification."""
        now = self._clock.now()
        with self._ledger.read() as transaction:
            postponed = jobs.next_attempt(transaction, self._name, now)
            has_work = postponed is not None or (self._breaker.health.failures > 0 and self._has_work(transaction))
        with self.in_flight.lock:
            if postponed is not None:
                self._breaker.health.check(now)
            elif not (self._breaker.is_open or self.in_flight.steps or has_work):
                self._breaker.succeeded()  # no job waits for the platform
        probe = None if postponed is None else self._tried_at + PROBE_EVERY
        times = (postponed, probe, self._breaker.open_until, self._breaker.health.down_at)
        return min([*(when for when in times if when is not None and when > now), now + self._poll_every])
