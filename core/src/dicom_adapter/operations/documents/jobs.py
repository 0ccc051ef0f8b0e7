"""Jobs and events as JSON values, without the metadata of jobs, which may contain patient data."""

from __future__ import annotations

from typing import Any

from dicom_adapter.api.values import Job
from dicom_adapter.ledger.clean_ups import CleanUp
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import JobStudies
from dicom_adapter.operations.documents.moments import iso


def job_as_json(job: Job, studies: JobStudies | None = None) -> dict[str, Any]:
    """Return a job as JSON values, without its metadata, which may contain patient data."""
    found = {
        "jobId": job.job_id,
        "name": job.name,
        "aeTitle": job.ae_title,
        "pipelineId": job.pipeline_id,
        "priority": job.priority.value,
        "submitter": job.submitter,
        "state": job.state.value,
        "instances": job.instance_count,
        "attachments": job.attachment_count,
        "createdAt": iso(job.created_at),
        "changedAt": iso(job.changed_at),
        "attempts": job.attempts,
        "nextAttemptAt": iso(job.next_attempt_at),
        "lastError": job.last_error,
        "platformJobId": job.platform_job_id,
        "platformPayloadId": job.platform_payload_id,
        "platformState": job.platform_state,
        "platformDetail": job.platform_detail,
        "cancelRequested": job.cancel_requested,
        "run": job.run,
        "startedAt": iso(job.started_at),
    }
    if studies is None:
        return found
    return {**found, "studies": studies.count, "studyInstanceUid": studies.first if studies.count == 1 else None}


def clean_up_as_json(waiting: CleanUp) -> dict[str, object]:
    """Return a clean-up as JSON values."""
    return {
        "run": waiting.job.run,
        "attempts": waiting.attempts,
        "nextAttemptAt": iso(waiting.next_attempt_at),
        "lastError": waiting.last_error,
    }


def event_as_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON values."""
    return {"at": iso(event.at), "event": event.event, **event.detail}
