"""Search the platform for a job by its idempotency key, when the response to its creation was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

from dicom_adapter import Job, PlatformJob
from dicom_adapter_clara_client.grpc_calls import HEADER, GrpcConnection
from dicom_adapter_clara_client.grpc_job import checked_id, query_job
from dicom_adapter_clara_client.platform_errors import invalid_response
from dicom_adapter_clara_client.platform_metadata import is_of_job
from dicom_adapter_clara_client.platform_names import job_name
from dicom_adapter_clara_client.wire.codes import seconds_of
from dicom_adapter_clara_client.wire.common_pb2 import Identifier, Timestamp
from dicom_adapter_clara_client.wire.jobs_pb2 import JobsListRequest, JobsListResponse

# Maximum delay of the platform's clock: more than any wrong time zone. If the platform counts times from
# another zero point (year 0, as on one page of NVIDIA's documentation), it lists more jobs than needed.
CLOCK_MARGIN = timedelta(hours=26)
MAX_LISTED = 100_000  # jobs; a longer list is an error of the platform
MAX_QUERIES = 200  # of single jobs, if the list has no metadata; the most likely jobs are queried first
Listed = JobsListResponse.JobDetails


def find_job(connection: GrpcConnection, subject: str, job: Job) -> PlatformJob | None:
    """Return the platform's job that was created for `job`, or None. Raises Refusal."""
    unclear: list[Listed] = []
    has_metadata = False
    for listed in _jobs(connection, subject, job):
        if is_of_job(listed.metadata, job):
            return _described(connection, subject, listed)
        if listed.metadata:
            has_metadata = True
        elif not has_metadata:
            unclear.append(listed)
    # All jobs of the adapter have metadata. If the list shows metadata, a job without metadata is not the adapter's.
    return None if has_metadata else _find_among(connection, subject, job, unclear)


def list_newest(connection: GrpcConnection, subject: str) -> None:
    """Request the jobs that were created from now on, which may be none. Raises Refusal if the platform refuses."""
    since = JobsListRequest.JobFilter(created_after=Timestamp(value=seconds_of(datetime.now(timezone.utc))))
    for _first in connection.stream(subject, connection.jobs.List, JobsListRequest(header=HEADER, filter=since)):
        return  # the others are not needed


def _jobs(connection: GrpcConnection, subject: str, job: Job) -> Iterator[Listed]:
    """List the jobs of this pipeline that are not older than `job`."""
    wanted = JobsListRequest.JobFilter(
        created_after=Timestamp(value=seconds_of(job.created_at - CLOCK_MARGIN)),
        pipeline_id=[Identifier(value=job.pipeline_id)],
    )
    answers = connection.stream(subject, connection.jobs.List, JobsListRequest(header=HEADER, filter=wanted))
    for number, answer in enumerate(answers):
        if number >= MAX_LISTED:
            raise invalid_response(subject, f"the platform lists more than {MAX_LISTED} jobs of one pipeline")
        if answer.HasField("job_details"):
            yield answer.job_details


def _find_among(connection: GrpcConnection, subject: str, job: Job, listed: list[Listed]) -> PlatformJob | None:
    for candidate in sorted(listed, key=_likeliest_first(job))[:MAX_QUERIES]:
        job_id = checked_id(subject, candidate.job_id, "job")
        platform_job = query_job(connection, subject, job_id)
        if is_of_job(platform_job.metadata, job):
            return PlatformJob(job_id=job_id, payload_id=checked_id(subject, platform_job.payload_id, "payload"))
    return None


def _likeliest_first(job: Job) -> Callable[[Listed], tuple[bool, int]]:
    """Return a sort key: jobs with the same name first, then the newest."""
    name = job_name(job.name)
    return lambda listed: (listed.job_name != name, -listed.created.value)


def _described(connection: GrpcConnection, subject: str, listed: Listed) -> PlatformJob:
    job_id = checked_id(subject, listed.job_id, "job")
    payload_id = (
        listed.payload_id if listed.HasField("payload_id") else query_job(connection, subject, job_id).payload_id
    )
    return PlatformJob(job_id=job_id, payload_id=checked_id(subject, payload_id, "payload"))
