"""Step 5: each job walks its states, one durable step after another.

    state          step          next state     when the step fails
    queued         create_job    created        retriable: the same step again, after a pause
    created        add_metadata  metadata-sent  permanent or a bug: faulted
    metadata-sent  upload (all)  uploaded
    uploaded       start         submitted
    faulted        (an operator retries: the state of the step that failed; or cancels: cancelled)
    submitted, cancelled: nothing more

Between a step on the platform and its row in the ledger the power may fail: then the step is repeated, which submitters
make harmless. Files that were uploaded are remembered one by one.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from datetime import datetime, timedelta
from functools import partial
from typing import Any, BinaryIO

import structlog
from attrs import frozen
from sqlalchemy.exc import SQLAlchemyError

from dicom_adapter.clock import Clock
from dicom_adapter.config.model import SubmitterConfig
from dicom_adapter.errors import Permanent, Retriable, describe_failure
from dicom_adapter.flow.metadata import dicom_metadata
from dicom_adapter.ledger import Ledger, Transaction, events, instances, jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.model import InstanceStorageInfo, Job, JobState
from dicom_adapter.storage import StorageBackend
from dicom_adapter.submitter import Submitter, Upload

log = structlog.get_logger("dicom_adapter.submit")

NEXT = {
    JobState.QUEUED: JobState.CREATED,
    JobState.CREATED: JobState.METADATA_SENT,
    JobState.METADATA_SENT: JobState.UPLOADED,
    JobState.UPLOADED: JobState.SUBMITTED,
}
UPLOADS_PER_COMMIT = 32  # files whose upload is remembered together: at most so many are repeated after a crash
MOST_DOUBLINGS = 20  # of a pause: beyond a million days, which `timedelta` can still hold


class Interrupted(Exception):
    """The service stops in the middle of a step, which says nothing of the job: the next start repeats the step."""


@frozen(kw_only=True)
class Retries:
    """When a retriable step is tried again: pauses double from `first` to `most`, for `lasting` in all."""

    first: timedelta
    most: timedelta
    lasting: timedelta

    @classmethod
    def of(cls, config: SubmitterConfig) -> Retries:
        return cls(
            first=timedelta(seconds=config.retry_first),
            most=timedelta(seconds=config.retry_most),
            lasting=timedelta(seconds=config.retry_for),
        )

    def next_attempt(self, attempts: int, since: datetime, now: datetime, jitter: float) -> datetime | None:
        """The time of the next try after `attempts` failures that began at `since`; None: no more.

        `jitter`, 0 to 1, takes up to half of the pause away, so that jobs that failed together do not return together.
        """
        if now - since >= self.lasting:
            return None
        pause: timedelta = min(self.most, self.first * 2 ** min(attempts - 1, MOST_DOUBLINGS))
        return now + pause * (1 - jitter / 2)


class Submission:
    """Carries jobs to one submitter. Used from several threads, each with a job of its own."""

    def __init__(
        self,
        submitter: Submitter[Any],
        retries: Retries,
        ledger: Ledger,
        storage: StorageBackend[Any],
        clock: Clock,
        uploads: Executor,
        on_change: Callable[[Job], None],
        keywords: Mapping[str, Sequence[str]],
    ) -> None:
        """`keywords`: for each AE title, the DICOM keywords whose values go into a job's metadata."""
        self._submitter = submitter
        self._retries = retries
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._uploads = uploads
        self._on_change = on_change
        self._keywords = keywords
        self._opening = threading.Lock()
        self._is_open = False
        self._is_closing = False
        self._steps: Mapping[JobState, Callable[[JobRow], Mapping[str, Any]]] = {
            JobState.QUEUED: self._create,
            JobState.CREATED: self._add_metadata,
            JobState.METADATA_SENT: self._upload,
            JobState.UPLOADED: self._start,
        }

    def open(self) -> None:
        """Open the submitter. Called before every use: once it has succeeded, nothing more happens."""
        with self._opening:
            if not self._is_open:
                self._submitter.open()
                self._is_open = True

    def close(self) -> None:
        """Close the submitter. Steps that this cuts off end as Interrupted."""
        self._is_closing = True
        with self._opening:
            if not self._is_open:
                return
            self._is_open = False
        try:
            self._submitter.close()
        except (Exception, SystemExit) as failure:  # noqa: BLE001 - a plugin may raise anything, even leave
            log.warning("submitter_close_failed", submitter=self._submitter.name, error=describe_failure(failure))

    def advance(self, row: JobRow) -> JobRow:
        """Take steps until the job is submitted, faulted or postponed."""
        while row.job.state in NEXT:
            before = row.job.state
            row = self.take_step(row)
            if row.job.state is before:
                break  # postponed
        return row

    def take_step(self, row: JobRow) -> JobRow:
        """One step on the platform, then one row in the ledger. Raises Interrupted, and has written nothing then."""
        try:
            found = self._steps[row.job.state](row)
        except Retriable as failure:
            return self._postpone(row, str(failure))
        except Permanent as failure:
            return self._fault(row, str(failure))
        except SQLAlchemyError as failure:  # the ledger's fault, most likely, and may pass
            return self._postpone(row, f"the ledger failed ({type(failure).__name__})")
        except Interrupted:
            raise
        except (Exception, SystemExit) as failure:  # a plugin may raise anything, even leave
            if self._is_closing:
                raise Interrupted from failure
            # A bug, which repeating will not mend.
            return self._fault(row, f"bug in submitter '{row.job.submitter}': {describe_failure(failure)}")
        cleared: dict[str, Any] = {"attempts": 0, "failing_since": None, "next_attempt_at": None, "last_error": ""}
        return self._change(
            row, "job_" + NEXT[row.job.state].value.replace("-", "_"), NEXT[row.job.state], {**cleared, **found}
        )

    # --- the steps --------------------------------------------------------------------------------------------------

    def _create(self, row: JobRow) -> Mapping[str, Any]:
        created = self._submitter.create_job(row.job)
        if not isinstance(created.job_id, str) or not isinstance(created.payload_id, str):
            raise TypeError("create_job must answer with texts")
        return {"platform_job_id": created.job_id, "platform_payload_id": created.payload_id}

    def _add_metadata(self, row: JobRow) -> Mapping[str, Any]:
        keywords = self._keywords.get(row.job.ae_title, ())
        found: Mapping[str, str] = {}
        if keywords:
            with self._ledger.read() as transaction:
                members = instances.of_job(transaction, row.number, missing_only=False)
            found = dicom_metadata((self._open(instance) for _position, instance in members), keywords)
        self._submitter.add_metadata(row.job, {**row.job.metadata, **found})
        return {}

    def _upload(self, row: JobRow) -> Mapping[str, Any]:
        with self._ledger.read() as transaction:
            missing = instances.of_job(transaction, row.number, missing_only=True)
        for start in range(0, len(missing), UPLOADS_PER_COMMIT):
            self._upload_some(row, missing[start : start + UPLOADS_PER_COMMIT])
        return {}

    def _upload_some(self, row: JobRow, members: Sequence[tuple[int, InstanceStorageInfo]]) -> None:
        """Upload side by side, remember what arrived, then raise what went wrong, if anything did."""
        futures: dict[int, Future[None]] = {}
        for position, instance in members:
            upload = Upload(
                instance=instance, position=position, size_bytes=instance.size_bytes, open=partial(self._open, instance)
            )
            futures[position] = self._begin(self._submitter.upload, row.job, upload)
        errors = {position: _error(future) for position, future in futures.items()}
        with self._ledger.write() as transaction:
            jobs.mark_uploaded(transaction, row.number, [place for place, error in errors.items() if error is None])
        _raise_worst(error for error in errors.values() if error is not None)

    def _begin(self, upload: Callable[[Job, Upload], None], job: Job, what: Upload) -> Future[None]:
        try:
            return self._uploads.submit(upload, job, what)
        except RuntimeError as failure:  # how an executor that is shut down says so; what `upload` raises is its result
            raise Interrupted from failure

    def _start(self, row: JobRow) -> Mapping[str, Any]:
        self._submitter.start(row.job)
        return {}

    def _open(self, instance: InstanceStorageInfo) -> BinaryIO:
        try:
            return self._storage.read(instance.storage_key)
        except OSError as failure:
            raise Retriable(f"the storage backend failed to read ({type(failure).__name__})") from failure

    # --- what became of a step --------------------------------------------------------------------------------------

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
        values = {"attempts": row.job.attempts + 1, "next_attempt_at": None, "last_error": error}
        return self._change(row, "job_faulted", JobState.FAULTED, values)

    def _change(self, row: JobRow, event: str, state: JobState, values: Mapping[str, Any]) -> JobRow:
        now = self._clock.now()
        with self._ledger.write() as transaction:
            changed = jobs.change(transaction, row, state=state, changed_at=now, **values)
            _tell(transaction, now, event, changed.job)
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


def _tell(transaction: Transaction, now: datetime, event: str, job: Job) -> None:
    detail: dict[str, object] = {"error": job.last_error} if job.last_error else {}
    if job.next_attempt_at is not None:
        detail["next_attempt_at"] = job.next_attempt_at.isoformat()
    events.record(transaction, [Event(at=now, event=event, ae_title=job.ae_title, job_id=job.job_id, detail=detail)])


def _error(future: Future[None]) -> BaseException | None:
    """What an upload raised; one that the end of the service cancelled was interrupted."""
    try:
        return future.exception()
    except CancelledError:
        return Interrupted()


def _raise_worst(errors: Iterable[BaseException]) -> None:
    """Of several failures the one that decides: what cannot be mended comes before what may pass."""
    found = sorted(errors, key=lambda error: isinstance(error, (Retriable, SQLAlchemyError, Interrupted)))
    if found:
        raise found[0]
