"""Step 5 (`submit`) of the flow brings a job to the platform in job steps. The ledger records the state after each one.

    state          job step      next state
    queued         create_job    created
    created        add_metadata  metadata-sent
    metadata-sent  upload (all)  uploaded; `attach` uploads the attachments of a delivery job
    uploaded       start         submitted, or running if the submitter follows jobs
    running        results       succeeded, or failed if an expected result is missing

A running job has no step until `status_watch` has recorded the end that the platform reports: `platform_finished` after
a success, the state failed otherwise. The step `results` calls `collect` (see `flow.collected`): the rows of the
results, the state succeeded and the clean-up that is due (see `clean_up`) are committed in one transaction.

After a retriable error, the same step is repeated after a pause. After a permanent error or a bug, the job is faulted.
When an operator retries a faulted job, it returns to the state of the step that failed. The retry of a failed job is
another run: the job is queued again, with the next number in `run`, and all its steps are repeated. When an operator
cancels a job, `cancel` and `clean_up` are called if the job may exist on the platform; then the job is cancelled.
The states submitted, succeeded and cancelled are final: no step follows.

The ledger records the start of each step, and later its result. If the power fails in between, or if the response of
the platform is lost, the step is repeated with `job.repeated` set: submitters must make the step idempotent. Each
upload of a file is recorded. Files are uploaded in batches (see `uploading`); other jobs can run a step between two
batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from enum import Enum
from typing import Any, BinaryIO, cast

import structlog
from attrs import evolve, field, frozen

from dicom_adapter.api.errors import Permanent, Retriable
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import InstanceStorageInfo, JobState
from dicom_adapter.flow.collected import Collect, Collected, collect_nothing
from dicom_adapter.flow.submit.metadata import Omitted, read_metadata
from dicom_adapter.flow.submit.uploading import Uploading
from dicom_adapter.flow.verified_reader import VerifiedReader
from dicom_adapter.ledger import instances
from dicom_adapter.ledger.attachments import Attachment
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.submit")

NEXT = {
    JobState.QUEUED: JobState.CREATED,
    JobState.CREATED: JobState.METADATA_SENT,
    JobState.METADATA_SENT: JobState.UPLOADED,
    JobState.UPLOADED: JobState.SUBMITTED,
    JobState.RUNNING: JobState.SUCCEEDED,
}


class PlatformContact(Enum):
    """Evidence of a step about the availability of the platform."""

    ANSWERED = "answered"  # available: the step has ended without an error
    FAILED = "failed"  # perhaps not available: the step failed with a retriable error
    UNKNOWN = "unknown"  # the platform was not called, or the step failed because of the job or of the adapter


class CannotRead(Retriable):
    """The storage backend failed. The platform was not the cause."""


@frozen(kw_only=True)
class Done:
    """The result of a successful step on the platform."""

    values: Mapping[str, Any] = field(factory=dict)  # fields of Job to record
    state: JobState | None = None  # the next state; None: the next state is in NEXT
    error: str = ""  # reason of the state failed
    is_complete: bool = True  # False: further batches of uploads follow
    has_progress: bool = True  # False: a batch in which every file was refused
    platform: PlatformContact = PlatformContact.ANSWERED
    # Events to record in addition to the change of state: the details by the event's name.
    further_events: Mapping[str, Mapping[str, object]] = field(factory=dict)
    results: Collected = field(factory=Collected)  # results of the job to record with the change of state


class Steps:
    """Runs the steps of jobs with one submitter. Thread-safe.

    Only finished uploads are recorded here. The caller records everything else in the ledger.
    """

    def __init__(
        self,
        submitter: Submitter[Any],
        resources: Resources,
        uploads: Executor,
        keywords: Mapping[str, Sequence[str]],
        collect: Collect = collect_nothing,
    ) -> None:
        """Run steps with `submitter`. `keywords` are, by AE title, the DICOM keywords for the metadata of jobs."""
        self._submitter = submitter
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._uploading = Uploading(submitter, resources.ledger, uploads, self._open_verified)
        self._keywords = keywords
        self._collect = collect
        self._steps: Mapping[JobState, Callable[[JobRow], Done]] = {
            JobState.QUEUED: self._create,
            JobState.CREATED: self._add_metadata,
            JobState.METADATA_SENT: self._upload,
            JobState.UPLOADED: self._start,
            JobState.RUNNING: self._collect_results,
        }

    def run(self, row: JobRow) -> Done:
        """Run the step of the job's state, or its cancellation if an operator requested it.

        Raises the errors of the submitter, CannotRead, LedgerError or Interrupted.
        """
        done = self._cancel(row) if row.job.cancel_requested else self._steps[row.job.state](row)
        is_local = row.job.cancel_requested or row.job.state in (JobState.QUEUED, JobState.CREATED)
        if is_local and not self._submitter.platform_has_jobs:
            return evolve(done, platform=PlatformContact.UNKNOWN)
        return done

    def _create(self, row: JobRow) -> Done:
        created = self._submitter.create_job(row.job)
        if not isinstance(created.job_id, str) or not isinstance(created.payload_id, str):
            raise TypeError("create_job must return PlatformJob(job_id=<text>, payload_id=<text>)")
        return Done(values={"platform_job_id": created.job_id, "platform_payload_id": created.payload_id})

    def _add_metadata(self, row: JobRow) -> Done:
        keywords = self._keywords.get(row.job.ae_title, ())
        omitted = Omitted()
        found = self._read_attributes(row, keywords, omitted) if keywords else {}
        self._submitter.add_metadata(row.job, {**row.job.metadata, **found})
        if not omitted.instance_ids:
            return Done()
        detail = omitted.describe()
        log.warning("job_metadata_incomplete", job_id=row.job.job_id, ae_title=row.job.ae_title, **detail)
        return Done(further_events={"job_metadata_incomplete": detail})

    def _read_attributes(self, row: JobRow, keywords: Sequence[str], omitted: Omitted) -> Mapping[str, str]:
        with self._ledger.read() as transaction:
            members = instances.of_job(transaction, row.number, missing_only=False)
        files = (self._open(instance) for _position, instance in members)

        def note(position: int, keyword: str, reason: str) -> None:
            omitted.add(members[position][1].instance_id, keyword, reason)

        try:
            return read_metadata(files, keywords, note)
        except OSError as failure:
            raise _cannot_read(failure) from failure

    def _upload(self, row: JobRow) -> Done:
        uploaded = self._uploading.upload_batch(row)
        return Done(is_complete=uploaded is None, has_progress=uploaded != 0)

    def _start(self, row: JobRow) -> Done:
        self._submitter.start(row.job)
        state = JobState.RUNNING if self._submitter.follows_jobs else JobState.SUBMITTED
        return Done(state=state, values={"started_at": self._clock.now()})

    def _collect_results(self, row: JobRow) -> Done:
        try:
            results = self._collect(row, self._submitter)
        except OSError as failure:
            raise CannotRead(f"the storage backend failed ({type(failure).__name__})") from failure
        if results.failure:
            return Done(state=JobState.FAILED, error=results.failure, results=results)
        return Done(results=results)

    def _cancel(self, row: JobRow) -> Done:
        """Cancel the job on the platform, if it was created there. The clean-up of the run follows separately."""
        self._uploading.forget(row)
        is_queued = row.job.state is JobState.QUEUED and not row.job.platform_job_id
        if is_queued and not row.job.repeated:
            return Done(state=JobState.CANCELLED, platform=PlatformContact.UNKNOWN)
        try:
            if is_queued:
                # The response to create_job was lost: repeat it to get the id. The next step cancels the job.
                return self._create(row)
            self._submitter.cancel(row.job)
        except Permanent as refusal:  # the job does not exist on the platform, or cannot be cancelled there
            log.warning("job_cancel_refused", job_id=row.job.job_id, reason=str(refusal))
        return Done(state=JobState.CANCELLED)

    def _open_verified(self, instance: InstanceStorageInfo | Attachment) -> BinaryIO:
        return cast(BinaryIO, VerifiedReader(self._open(instance), instance))

    def _open(self, instance: InstanceStorageInfo | Attachment) -> BinaryIO:
        try:
            return self._storage.read(instance.storage_key)
        except OSError as failure:
            raise _cannot_read(failure) from failure


def _cannot_read(failure: OSError) -> CannotRead:
    return CannotRead(f"the storage backend failed to read ({type(failure).__name__})")
