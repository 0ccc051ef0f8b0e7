"""The log of new jobs."""

from __future__ import annotations

import structlog

from dicom_adapter.api.values import INTERRUPTED
from dicom_adapter.flow.process.turn import Committed

log = structlog.get_logger("dicom_adapter.host")


def log_queued(committed: Committed) -> None:
    """Log the jobs of a turn, or the delivery jobs of results."""
    for job in committed.jobs:
        studies = committed.studies.get(job.job_id, ())
        log.info(
            "job_queued",
            job_id=job.job_id,
            ae_title=job.ae_title,
            name=job.name,
            pipeline=job.pipeline_id,
            priority=job.priority.value,
            instances=job.instance_count,
            studies=len(studies),
            study_instance_uid=studies[0] if len(studies) == 1 else None,
        )
        if INTERRUPTED in job.metadata:
            reason = job.metadata[INTERRUPTED]
            log.warning("job_incomplete", job_id=job.job_id, ae_title=job.ae_title, reason=reason)
