"""Step 5: each job passes through its states, one durable step after another.

    state          step          next state     when the step fails
    queued         create_job    created        retriable: the same step again, after a pause
    created        add_metadata  metadata-sent  permanent or a bug: faulted
    metadata-sent  upload (all)  uploaded
    uploaded       start         submitted
    faulted        an operator retries: back to the state of the step that failed; or cancels: cancelled
    any of these   an operator cancels: cancel, then cancelled
    submitted      none; the status on the platform may still be requested
    cancelled      none

Before a step begins for the first time, the ledger records it. Between the step on the platform and the ledger row of
its result the power may fail, or the response may be lost. Then the step is repeated, with `job.repeated` set, and
submitters make it idempotent. Uploads are recorded file by file. A job with many or slow files yields to others after
each batch.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, BinaryIO, cast

import structlog
from attrs import field, frozen

from dicom_adapter.api.errors import IllegalTransition, LedgerError, Permanent, Retriable, describe_failure
from dicom_adapter.api.submitter import Submitter, Upload
from dicom_adapter.api.values import InstanceStorageInfo, Job, JobState, PlatformStatus
from dicom_adapter.flow.submit.metadata import dicom_metadata
from dicom_adapter.flow.submit.scheduling import Retries
from dicom_adapter.flow.verified_reader import VerifiedReader
from dicom_adapter.ledger import Transaction, events, instances, jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.submit")

NEXT = {
    JobState.QUEUED: JobState.CREATED,
    JobState.CREATED: JobState.METADATA_SENT,
    JobState.METADATA_SENT: JobState.UPLOADED,
    JobState.UPLOADED: JobState.SUBMITTED,
}
UPLOADS_PER_COMMIT = 32  # files whose upload is recorded together: at most so many are repeated after a crash
BATCH_SECONDS = 2.0  # after which no further upload of a batch begins, so that other jobs get a turn on a slow platform
OPENING_SECONDS = 2.0  # how long `close` waits for an `open` in progress
NO_FAILURES = {"attempts": 0, "failing_since": None, "next_attempt_at": None, "last_error": ""}


class PlatformContact(Enum):
    """Whether a step got a response of the platform."""

    ANSWERED = "answered"
    FAILED = "failed"  # with a retriable error
    UNKNOWN = "unknown"  # the platform was not called, or something else failed


@frozen
class StepResult:
    """The result of a step: the job as it is now."""

    row: JobRow
    platform: PlatformContact


class CannotRead(Retriable):
    """The storage backend failed; this shows nothing about the platform."""


class Interrupted(Exception):
    """The service stops during a step; this is no failure of the job: the next start repeats the step."""


@frozen(kw_only=True)
class Done:
    """The outcome of a step on the platform."""

    found: Mapping[str, Any] = field(factory=dict)  # fields of Job that it returned
    state: JobState | None = None  # the next state, if it is not that of the table
    whole: bool = True  # the step is complete; if not, its next part follows
    platform: PlatformContact = PlatformContact.ANSWERED


class Submission:
    """Runs the steps of jobs with one submitter. Thread-safe if each thread has a job of its own."""

    def __init__(
        self,
        submitter: Submitter[Any],
        retries: Retries,
        resources: Resources,
        uploads: Executor,
        on_change: Callable[[Job], None],
        keywords: Mapping[str, Sequence[str]],
    ) -> None:
        """`keywords`: for each AE title, the DICOM keywords whose values go into a job's metadata."""
        self._submitter = submitter
        self._retries = retries
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._uploads = uploads
        self._on_change = on_change
        self._keywords = keywords
        self._opening = threading.Lock()
        self._is_open = False
        self._is_closing = False
        self._steps: Mapping[JobState, Callable[[JobRow], Done]] = {
            JobState.QUEUED: self._create,
            JobState.CREATED: self._add_metadata,
            JobState.METADATA_SENT: self._upload,
            JobState.UPLOADED: self._start,
        }

    def open(self) -> None:
        """Open the submitter. Called before every use; idempotent once it has succeeded."""
        with self._opening:
            if not self._is_open:
                self._submitter.open()
                self._is_open = True

    def close(self) -> None:
        """Close the submitter. Steps that this interrupts raise Interrupted."""
        self._is_closing = True
        if not self._opening.acquire(timeout=OPENING_SECONDS):
            return  # `open` hangs; there is nothing to close yet
        was_open, self._is_open = self._is_open, False
        self._opening.release()
        if not was_open:
            return
        try:
            self._submitter.close()
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            log.warning("submitter_close_failed", submitter=self._submitter.name, error=describe_failure(failure))

    def take_step(self, row: JobRow) -> StepResult:
        """Run one step on the platform, or one batch of uploads, then record it in the ledger.

        Raises Interrupted without recording anything.
        """
        try:
            begun = self._begin_step(row)
            done = self._cancel(row) if row.job.cancel_requested else self._steps[row.job.state](row)
        except CannotRead as failure:
            return StepResult(self._postpone(begun, str(failure)), PlatformContact.UNKNOWN)
        except LedgerError as failure:  # most likely temporary, and not because of this job
            return StepResult(self._postpone(row, str(failure)), PlatformContact.UNKNOWN)
        except Retriable as failure:
            return StepResult(self._postpone(begun, str(failure)), PlatformContact.FAILED)
        except Permanent as failure:
            return StepResult(self._fault(begun, str(failure)), PlatformContact.UNKNOWN)
        except (Interrupted, IllegalTransition, KeyboardInterrupt):
            raise
        except BaseException as failure:  # a plugin may raise anything, even SystemExit
            if self._is_closing:
                raise Interrupted from failure
            # A bug: a retry does not fix it.
            error = f"bug in submitter '{row.job.submitter}': {describe_failure(failure)}"
            return StepResult(self._fault(begun, error), PlatformContact.UNKNOWN)
        return StepResult(self._complete(begun, done), done.platform)

    def ask(self, row: JobRow) -> None:
        """Request the status of a submitted job from the platform, and record it."""
        told = self._status(row.job)
        now = self._clock.now()
        with self._ledger.write() as transaction:
            jobs.mark_asked(transaction, row.number, now)
            if told is None:
                return
            changed = jobs.change(
                transaction,
                row,
                platform_state=told.state,
                platform_detail=told.detail,
                platform_finished=told.finished,
            )
            if changed.job == row.job:
                return
            events.record(transaction, [_platform_state(changed.job, now)])
        log.info("job_platform_state", job_id=row.job.job_id, state=told.state, detail=told.detail)
        self._on_change(changed.job)

    def _status(self, job: Job) -> PlatformStatus | None:
        try:
            return _checked_status(self._submitter.status(job))
        except Permanent as failure:
            return PlatformStatus(state="unknown", finished=True, detail=str(failure))
        except Retriable as failure:
            log.info("platform_not_asked", job_id=job.job_id, reason=str(failure))
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            log.warning("platform_not_asked", job_id=job.job_id, reason=describe_failure(failure))
        return None

    def _begin_step(self, row: JobRow) -> JobRow:
        """Record in the ledger that the step has begun, unless this is recorded already."""
        if row.job.repeated:
            return row
        with self._ledger.write() as transaction:
            return jobs.change(transaction, row, repeated=True)

    # --- the steps --------------------------------------------------------------------------------------------------

    def _create(self, row: JobRow) -> Done:
        created = self._submitter.create_job(row.job)
        if not isinstance(created.job_id, str) or not isinstance(created.payload_id, str):
            raise TypeError("create_job must return texts")
        return Done(found={"platform_job_id": created.job_id, "platform_payload_id": created.payload_id})

    def _add_metadata(self, row: JobRow) -> Done:
        keywords = self._keywords.get(row.job.ae_title, ())
        found: Mapping[str, str] = {}
        if keywords:
            with self._ledger.read() as transaction:
                members = instances.of_job(transaction, row.number, missing_only=False)
            found = dicom_metadata((self._open(instance) for _position, instance in members), keywords)
        self._submitter.add_metadata(row.job, {**row.job.metadata, **found})
        return Done()

    def _upload(self, row: JobRow) -> Done:
        """Upload one batch of the missing files. The step is complete when none is missing."""
        with self._ledger.read() as transaction:
            missing = instances.of_job(transaction, row.number, missing_only=True, limit=UPLOADS_PER_COMMIT)
        if missing:
            self._upload_some(row, missing)
        return Done(whole=not missing)

    def _upload_some(self, row: JobRow, members: Sequence[tuple[int, InstanceStorageInfo]]) -> None:
        """Upload in parallel, record the successful uploads, then raise the most severe error, if any."""
        futures: dict[int, Future[None]] = {}
        end = time.monotonic() + BATCH_SECONDS
        for position, instance in members:
            if futures and time.monotonic() >= end:
                break  # the others belong to the next batch
            upload = Upload(
                instance=instance,
                position=position,
                size_bytes=instance.size_bytes,
                open=partial(self._open_verified, instance),
            )
            futures[position] = self._begin(self._submitter.upload, row.job, upload)
        errors = {position: _error(future) for position, future in futures.items()}
        with self._ledger.write() as transaction:
            jobs.mark_uploaded(transaction, row.number, [place for place, error in errors.items() if error is None])
        _raise_worst(error for error in errors.values() if error is not None)

    def _begin(self, upload: Callable[[Job, Upload], None], job: Job, what: Upload) -> Future[None]:
        try:
            return self._uploads.submit(upload, job, what)
        except RuntimeError as failure:  # the executor is shut down; errors of `upload` itself are in its future
            raise Interrupted from failure

    def _start(self, row: JobRow) -> Done:
        self._submitter.start(row.job)
        return Done()

    def _cancel(self, row: JobRow) -> Done:
        """Cancel the job on the platform, if the platform knows it."""
        if not row.job.platform_job_id and not row.job.repeated:
            return Done(state=JobState.CANCELLED, platform=PlatformContact.UNKNOWN)
        try:
            if not row.job.platform_job_id:
                # The response to a create was lost: repeat it to get the id, with which the job is cancelled next.
                return self._create(row)
            self._submitter.cancel(row.job)
        except Permanent as refusal:  # the platform does not know the job, or rejects this
            log.warning("job_cancel_refused", job_id=row.job.job_id, reason=str(refusal))
        return Done(state=JobState.CANCELLED)

    def _open_verified(self, instance: InstanceStorageInfo) -> BinaryIO:
        return cast(BinaryIO, VerifiedReader(self._open(instance), instance))

    def _open(self, instance: InstanceStorageInfo) -> BinaryIO:
        try:
            return self._storage.read(instance.storage_key)
        except OSError as failure:
            raise CannotRead(f"the storage backend failed to read ({type(failure).__name__})") from failure

    # --- results of steps -------------------------------------------------------------------------------------------

    def _complete(self, row: JobRow, done: Done) -> JobRow:
        """Record the success of a step, or of a part of it."""
        if not done.whole:
            return self._forget_failures(row)
        state = done.state or NEXT[row.job.state]
        values = {**NO_FAILURES, **done.found, "repeated": False}
        return self._change(row, "job_" + state.value.replace("-", "_"), state, values)

    def _forget_failures(self, row: JobRow) -> JobRow:
        if not row.job.attempts:
            return row
        with self._ledger.write() as transaction:
            return jobs.change(transaction, row, **NO_FAILURES)

    def _postpone(self, row: JobRow, error: str) -> JobRow:
        if self._is_closing:
            raise Interrupted
        now = self._clock.now()
        attempts, since = row.job.attempts + 1, row.failing_since or now
        when = self._retries.next_attempt(attempts, since, now, random.random())  # noqa: S311 - spreads load, no secret
        if when is None:
            return self._fault(row, f"gave up after {attempts} attempts since {since:%Y-%m-%d %H:%M:%S} UTC: {error}")
        values = {"attempts": attempts, "failing_since": since, "next_attempt_at": when, "last_error": error}
        return self._change(row, "job_attempt_failed", row.job.state, values)

    def _fault(self, row: JobRow, error: str) -> JobRow:
        faulted_in = row.job.state
        values = {"attempts": row.job.attempts + 1, "next_attempt_at": None, "last_error": error}
        values |= {"faulted_in": faulted_in}  # `cancel_requested` stays: a retry continues with the cancellation
        return self._change(row, "job_faulted", JobState.FAULTED, values)

    def _change(self, row: JobRow, event: str, state: JobState, values: Mapping[str, Any]) -> JobRow:
        now = self._clock.now()
        with self._ledger.write() as transaction:
            changed = jobs.change(transaction, row, state=state, changed_at=now, **values)
            _record(transaction, now, event, changed.job)
        level = "warning" if changed.job.last_error else "info"
        getattr(log, level)(
            event,
            job_id=changed.job.job_id,
            ae_title=changed.job.ae_title,
            attempts=changed.job.attempts,
            error=changed.job.last_error,
        )
        if changed.job.state is not row.job.state:
            self._on_change(changed.job)
        return changed


def _record(transaction: Transaction, now: datetime, event: str, job: Job) -> None:
    detail: dict[str, object] = {"error": job.last_error} if job.last_error else {}
    if job.next_attempt_at is not None:
        detail["next_attempt_at"] = job.next_attempt_at.isoformat()
    events.record(transaction, [Event(at=now, event=event, ae_title=job.ae_title, job_id=job.job_id, detail=detail)])


def _platform_state(job: Job, now: datetime) -> Event:
    detail = {"state": job.platform_state, "said": job.platform_detail}
    return Event(at=now, event="job_platform_state", ae_title=job.ae_title, job_id=job.job_id, detail=detail)


def _error(future: Future[None]) -> BaseException | None:
    """Return what an upload raised; Interrupted if the stop of the service cancelled it."""
    try:
        return future.exception()
    except CancelledError:
        return Interrupted()


def _raise_worst(errors: Iterable[BaseException]) -> None:
    """Raise the decisive one of several failures: permanent errors come before temporary ones."""
    found = sorted(errors, key=lambda error: isinstance(error, (Retriable, LedgerError, Interrupted)))
    if found:
        raise found[0]


def _checked_status(told: PlatformStatus) -> PlatformStatus:
    """Raise TypeError for a malformed status, before it is written to the ledger."""
    texts = isinstance(told, PlatformStatus) and isinstance(told.state, str) and isinstance(told.detail, str)
    if not texts or not isinstance(told.finished, bool):
        raise TypeError("status must return PlatformStatus(state=<text>, finished=<bool>, detail=<text>)")
    return told
