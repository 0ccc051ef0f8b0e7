"""Conversion between values of the platform and messages of the API."""

from __future__ import annotations

from datetime import datetime

from dicom_adapter import JobPriority
from dicom_adapter_clara_client.emulator.rules import InvalidValue
from dicom_adapter_clara_client.emulator.values import (
    ClaraJob,
    ClaraJobState,
    ClaraJobStatus,
    JobFilter,
    PayloadFile,
    PayloadType,
)
from dicom_adapter_clara_client.wire import jobs_pb2, payloads_pb2
from dicom_adapter_clara_client.wire.codes import ClaraCode, seconds_of, time_of
from dicom_adapter_clara_client.wire.common_pb2 import Identifier, ResponseHeader, Timestamp

PRIORITIES = {
    JobPriority.LOWER: jobs_pb2.JOB_PRIORITY_LOWER,
    JobPriority.NORMAL: jobs_pb2.JOB_PRIORITY_NORMAL,
    JobPriority.HIGHER: jobs_pb2.JOB_PRIORITY_HIGHER,
    JobPriority.IMMEDIATE: jobs_pb2.JOB_PRIORITY_IMMEDIATE,
}
STATES = {
    ClaraJobState.PENDING: jobs_pb2.JOB_STATE_PENDING,
    ClaraJobState.RUNNING: jobs_pb2.JOB_STATE_RUNNING,
    ClaraJobState.STOPPED: jobs_pb2.JOB_STATE_STOPPED,
}
STATUSES = {
    ClaraJobStatus.HEALTHY: jobs_pb2.JOB_STATUS_HEALTHY,
    ClaraJobStatus.FAULTED: jobs_pb2.JOB_STATUS_FAULTED,
    ClaraJobStatus.CANCELED: jobs_pb2.JOB_STATUS_CANCELED,
    ClaraJobStatus.EVICTED: jobs_pb2.JOB_STATUS_EVICTED,
    ClaraJobStatus.TERMINATED: jobs_pb2.JOB_STATUS_TERMINATED,
}
TYPES = {
    PayloadType.PIPELINE: payloads_pb2.PAYLOAD_TYPE_PIPELINE,
    PayloadType.REUSABLE: payloads_pb2.PAYLOAD_TYPE_REUSABLE,
}


def success_header() -> ResponseHeader:
    """Return the header of a successful response."""
    return ResponseHeader(code=ClaraCode.OK)


def identifier(text: str | None) -> Identifier | None:
    """Return an id, or None to omit the field."""
    return None if text is None else Identifier(value=text)


def timestamp(time: datetime | None) -> Timestamp | None:
    """Return a time, or None to omit the field, if the event has not happened."""
    return None if time is None else Timestamp(value=seconds_of(time))


def file_details(file: PayloadFile) -> payloads_pb2.PayloadFileDetails:
    """Return the details of a stored file, with its name relative to the payload's root."""
    return payloads_pb2.PayloadFileDetails(mode=file.mode, size=file.size_bytes, name=file.name)


def priority_of(number: int) -> JobPriority:
    """Return the priority for a number of the API. Raises InvalidValue for 0 (NVIDIA's clients never send 0)."""
    for priority, known in PRIORITIES.items():
        if known == number:
            return priority
    raise InvalidValue(ClaraCode.JOB_PRIORITY_INVALID, f"priority {number} must be 1 (lower) to 4 (immediate)")


def filter_of(wanted: jobs_pb2.JobsListRequest.JobFilter) -> JobFilter:
    """Return the filter of a request. Unknown states and statuses are ignored."""
    return JobFilter(
        completed_before=_time(wanted.completed_before) if wanted.HasField("completed_before") else None,
        created_after=_time(wanted.created_after) if wanted.HasField("created_after") else None,
        states=frozenset(state for state in STATES if STATES[state] in wanted.has_state),
        statuses=frozenset(status for status in STATUSES if STATUSES[status] in wanted.has_status),
        pipeline_ids=frozenset(pipeline.value.lower() for pipeline in wanted.pipeline_id),
    )


def status_answer(job: ClaraJob) -> jobs_pb2.JobsStatusResponse:
    """Return one job with its details, without the deprecated time texts."""
    return jobs_pb2.JobsStatusResponse(
        header=success_header(),
        job_id=identifier(job.job_id),
        pipeline_id=identifier(job.pipeline_id),
        payload_id=identifier(job.payload_id),
        state=STATES[job.state],
        status=STATUSES[job.status],
        name=job.name,
        messages=job.messages,
        priority=PRIORITIES[job.priority],
        created=timestamp(job.created),
        started=timestamp(job.started),
        stopped=timestamp(job.stopped),
        metadata=job.metadata,
    )


def list_answer(job: ClaraJob) -> jobs_pb2.JobsListResponse:
    """Return one job of a list."""
    return jobs_pb2.JobsListResponse(
        header=success_header(),
        job_details=jobs_pb2.JobsListResponse.JobDetails(
            job_id=identifier(job.job_id),
            payload_id=identifier(job.payload_id),
            pipeline_id=identifier(job.pipeline_id),
            job_name=job.name,
            state=STATES[job.state],
            status=STATUSES[job.status],
            priority=PRIORITIES[job.priority],
            created=timestamp(job.created),
            started=timestamp(job.started),
            stopped=timestamp(job.stopped),
            metadata=job.metadata,
        ),
    )


def _time(sent: Timestamp) -> datetime | None:
    """Return a time of a filter. NVIDIA's client sends 0 for "no time"."""
    try:
        return time_of(sent.value) if sent.value else None
    except OverflowError as error:
        raise InvalidValue(
            ClaraCode.JOBS_NOT_LISTED, f"the time {sent.value} (seconds since 0001-01-01) is out of range"
        ) from error
