"""Count jobs, and measure the times from the last arrival to a job, to its results and to their delivery."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from dicom_adapter.api.values import SOURCE_JOB, Job, JobState
from dicom_adapter.ledger.jobs import FINISHED, HELD
from dicom_adapter.runtime.measures import (
    ARRIVAL_TO_JOB,
    JOB_TO_RESULT,
    JOBS_CREATED,
    JOBS_ENDED,
    RESULT_TO_DELIVERY,
)
from dicom_adapter.runtime.shared_counts import Counts

DELIVERED = (JobState.SUBMITTED, JobState.SUCCEEDED)
ENDED = (*FINISHED, *HELD)


@frozen
class JobMeasures:
    """The counters of jobs. Thread-safe."""

    counts: Counts

    def created(self, job: Job, arrived_at: datetime | None, now: datetime) -> None:
        """Count a new job. `arrived_at`: arrival of its last instance; None for the delivery of results."""
        self.counts.tally(JOBS_CREATED, job.ae_title, job.submitter, job.pipeline_id).add()
        if arrived_at is not None:
            waits = self.counts.distribution(ARRIVAL_TO_JOB, job.ae_title, job.pipeline_id)
            waits.observe((now - arrived_at).total_seconds())

    def changed(self, job: Job) -> None:
        """Count a job if it has ended. Call this method once for each change of its state."""
        if job.state not in ENDED:
            return
        self.counts.tally(JOBS_ENDED, job.ae_title, job.submitter, job.state.value).add()
        seconds = (job.changed_at - job.created_at).total_seconds()
        if SOURCE_JOB in job.metadata:
            if job.state in DELIVERED:
                self.counts.distribution(RESULT_TO_DELIVERY, job.ae_title, job.submitter).observe(seconds)
        elif job.state is JobState.SUCCEEDED:
            self.counts.distribution(JOB_TO_RESULT, job.ae_title, job.pipeline_id).observe(seconds)
