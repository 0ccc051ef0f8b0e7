"""Query and validate the status of a job. Validation is needed because another server may answer at the endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import field, frozen

from dicom_adapter import Job, PlatformStatus
from dicom_adapter_clara_client.grpc_calls import HEADER, GrpcConnection
from dicom_adapter_clara_client.platform_errors import invalid_response
from dicom_adapter_clara_client.platform_words import one_line
from dicom_adapter_clara_client.wire import jobs_pb2
from dicom_adapter_clara_client.wire.common_pb2 import Identifier

IDENTIFIER = re.compile(r"[0-9A-Fa-f]{32}")
STATES = {
    jobs_pb2.JOB_STATE_PENDING: "pending",
    jobs_pb2.JOB_STATE_RUNNING: "running",
    jobs_pb2.JOB_STATE_STOPPED: "stopped",
}
STATUSES = {
    jobs_pb2.JOB_STATUS_HEALTHY: "healthy",
    jobs_pb2.JOB_STATUS_FAULTED: "faulted",
    jobs_pb2.JOB_STATUS_CANCELED: "canceled",
    jobs_pb2.JOB_STATUS_EVICTED: "evicted",
    jobs_pb2.JOB_STATUS_TERMINATED: "terminated",
}
STOPPED_EARLY = {"canceled", "evicted"}  # possible statuses of a job that was stopped before it was started
MAX_MESSAGES = 10  # messages of a job that are kept
MAX_MESSAGE_CHARACTERS = 500  # of all messages of a job together


@frozen(kw_only=True)
class GrpcJob:
    """A job as the platform describes it."""

    payload_id: Identifier | None
    state: str
    status: str
    was_started: bool  # the platform reports a start time
    messages: str  # for people, in one line
    metadata: Mapping[str, str] = field(repr=False)

    @property
    def platform_status(self) -> PlatformStatus:
        """The status for the core. Only a stopped job that is healthy has succeeded."""
        finished = self.state == "stopped"
        detail = "; ".join(text for text in (self.status, self.messages) if text)
        succeeded = self.status == "healthy" if finished else None
        return PlatformStatus(state=self.state, finished=finished, succeeded=succeeded, detail=detail)

    @property
    def was_stopped_before_start(self) -> bool:
        """True if the job was stopped before it was started."""
        return self.state == "stopped" and self.status in STOPPED_EARLY and not self.was_started


def query_job(connection: GrpcConnection, subject: str, job_id: str) -> GrpcJob:
    """Query the current status of a job. Raises `platform_errors.Refusal`."""
    request = jobs_pb2.JobsStatusRequest(header=HEADER, job_id=Identifier(value=job_id))
    answer = connection.call(subject, connection.jobs.Status, request)
    check_same(subject, answer.job_id, job_id)
    if answer.state not in STATES:
        raise invalid_response(subject, f"the platform reports the unknown job state {answer.state}")
    return GrpcJob(
        payload_id=answer.payload_id if answer.HasField("payload_id") else None,
        state=STATES[answer.state],
        status=STATUSES.get(answer.status, f"status {answer.status}"),
        was_started=answer.HasField("started") and answer.started.value > 0,
        messages=one_line("; ".join(answer.messages[:MAX_MESSAGES]), MAX_MESSAGE_CHARACTERS),
        metadata=answer.metadata,
    )


def checked_id(subject: str, received_id: Identifier | None, what: str) -> str:
    """Return an id that the platform returned. Raises `platform_errors.Refusal` if it is missing or invalid."""
    if received_id is None or not received_id.value:
        raise invalid_response(subject, f"the platform answered without a {what} id")
    if not IDENTIFIER.fullmatch(received_id.value):
        text = one_line(received_id.value, 40)
        raise invalid_response(subject, f"the platform gave the {what} id '{text}', must be 32 hexadecimal digits")
    return received_id.value


def check_same(subject: str, received_id: Identifier, job_id: str) -> None:
    """Raise `platform_errors.Refusal` if a response is for a different job than the request."""
    if checked_id(subject, received_id, "job").lower() != job_id.lower():
        raise invalid_response(subject, "the platform answered for another job")


def subject_of(job: Job, step: str) -> str:
    """Return the beginning of messages about a step."""
    return f"job {job.job_id}: {step}"
