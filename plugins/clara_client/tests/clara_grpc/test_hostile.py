"""Invalid responses: each is a clear error, and never a crash or a false success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_adapter import DicomAdapterError, Job, Permanent, PlatformJob, Retriable
from dicom_adapter_clara_client.platform_metadata import IDEMPOTENCY_KEY
from dicom_adapter_clara_client.wire.common_pb2 import Identifier, ResponseHeader, Timestamp
from dicom_adapter_clara_client.wire.jobs_pb2 import (
    JOB_STATE_PENDING,
    JOB_STATE_RUNNING,
    JobsAddMetadataResponse,
    JobsCreateResponse,
    JobsListResponse,
    JobsStartResponse,
    JobsStatusResponse,
)

Make = Callable[..., Any]
ID = Identifier(value=32 * "b")
PAYLOAD = Identifier(value=32 * "c")
OTHER = Identifier(value=32 * "d")


def status(**more: Any) -> JobsStatusResponse:
    return JobsStatusResponse(**{"job_id": ID, "payload_id": PAYLOAD, "state": JOB_STATE_PENDING, **more})


def listed(job_id: Identifier | None = ID, **more: Any) -> JobsListResponse:
    return JobsListResponse(job_details=JobsListResponse.JobDetails(job_id=job_id, **more))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", "the platform answered without a job id"),
        (JobsCreateResponse(job_id=ID), "the platform answered without a payload id"),
        (
            JobsCreateResponse(job_id=ID, payload_id=Identifier(value="7")),
            "gave the payload id '7', must be 32 hexadecimal",
        ),
        (
            JobsCreateResponse(job_id=Identifier(value="../../x\n"), payload_id=PAYLOAD),
            "gave the job id '../../x', must",
        ),
        (JobsCreateResponse(job_id=Identifier(value=1_000_000 * "b")), "gave the job id 'bbbb"),
        (
            JobsCreateResponse(header=ResponseHeader(code=-7), job_id=ID, payload_id=PAYLOAD),
            "the platform answered -0x0007",
        ),
        (lambda requests, context: [], "the platform ended the call without a response"),
        (lambda requests, context: 2 * [b""], "the call ended with"),
        (b"\xff\xff\xff\xff", "the call ended with INTERNAL"),
        (b"<html>503</html>", "the call ended with INTERNAL|without a job id"),
        (bytes(9 << 20), "the call ended with RESOURCE_EXHAUSTED"),
    ],
)
def test_a_creation_without_valid_ids_is_retriable(answer: Any, expected: str, hostile: Make, job: Job) -> None:
    """The job may exist; the repeated step first searches for the job."""
    with pytest.raises(Retriable, match=f"create: .*({expected})") as raised:
        hostile({"Jobs.Create": answer}).create_job(job)
    assert len(str(raised.value)) < 600


def test_a_positive_code_is_a_success(hostile: Make, job: Job) -> None:
    """A positive code is a count or a partial success."""
    answer = JobsCreateResponse(header=ResponseHeader(code=3), job_id=ID, payload_id=PAYLOAD)
    assert PlatformJob(job_id=ID.value, payload_id=PAYLOAD.value) == hostile({"Jobs.Create": answer}).create_job(job)


def test_a_server_without_the_service_is_a_permanent_error(hostile: Make, job: Job) -> None:
    """Another server is listening at the endpoint."""
    with pytest.raises(Permanent, match=r"UNIMPLEMENTED.*; check that the endpoint leads to the platform's gRPC port"):
        hostile({}).create_job(job)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", "the platform answered without a job id"),
        (status(job_id=OTHER), "the platform answered for another job"),
        (status(state=0), "reports the unknown job state 0"),
        (status(state=99), "reports the unknown job state 99"),
        (b"\xff\xff\xff\xff", "the call ended with INTERNAL"),
    ],
)
def test_an_invalid_status_is_retriable(answer: Any, expected: str, hostile: Make, created: Job) -> None:
    """The error is retriable in polling and in the steps that check the status."""
    submitter = hostile({"Jobs.Status": answer, "Jobs.Start": JobsStartResponse(state=JOB_STATE_RUNNING)})
    for step in (
        lambda: submitter.status(created),
        lambda: submitter.start(evolve(created, repeated=True)),
        lambda: submitter.add_metadata(evolve(created, repeated=True), created.metadata),
    ):
        with pytest.raises(Retriable, match=expected):
            step()


def test_job_ids_are_compared_without_case(hostile: Make, created: Job) -> None:
    """An id in upper case names the same job. An unknown status is reported by its number."""
    answer = status(job_id=Identifier(value=32 * "B"), status=77, messages=100 * ["x"], started=Timestamp(value=-1))
    result = hostile({"Jobs.Status": answer}).status(created)
    assert ("pending", False) == (result.state, result.finished)
    assert "status 77; " + "; ".join(10 * "x") == result.detail


@pytest.mark.parametrize("answer", [b"", JobsStartResponse(), b"\xff\xff\xff\xff"])
def test_an_invalid_response_to_a_start_causes_a_status_check(answer: Any, hostile: Make, created: Job) -> None:
    """The job was started unless its status is pending."""
    with pytest.raises(Retriable, match=r"start: .*(without a job state|INTERNAL)"):
        hostile({"Jobs.Start": answer, "Jobs.Status": status()}).start(created)
    hostile({"Jobs.Start": answer, "Jobs.Status": status(state=JOB_STATE_RUNNING)}).start(created)


@pytest.mark.parametrize("answer", [b"", JobsAddMetadataResponse(job_id=OTHER), b"\xff\xff\xff\xff"])
def test_an_invalid_response_to_metadata_causes_a_status_check(answer: Any, hostile: Make, created: Job) -> None:
    """The entries in the job's status were added."""
    with pytest.raises(Retriable, match=r"metadata: .*(without a job id|another job|INTERNAL)"):
        hostile({"Jobs.AddMetadata": answer, "Jobs.Status": status()}).add_metadata(created, created.metadata)
    present = status(metadata={"Instances": "2"})
    hostile({"Jobs.AddMetadata": answer, "Jobs.Status": present}).add_metadata(created, created.metadata)


# --- search for a job whose creation was lost ------------------------------------------------------------------------


def find_job_in(hostile: Make, job: Job, *listing: JobsListResponse, **answers: Any) -> PlatformJob:
    submitter = hostile({"Jobs.List": lambda requests, context: listing, **answers})
    platform_job = submitter.create_job(evolve(job, repeated=True))
    assert isinstance(platform_job, PlatformJob)
    return platform_job


def test_a_payload_missing_in_the_list_is_read_from_the_status(hostile: Make, job: Job) -> None:
    """The list may omit payload ids."""
    ours = listed(metadata={IDEMPOTENCY_KEY: job.job_id})
    platform_job = find_job_in(hostile, job, listed(OTHER, metadata={"a": "b"}), ours, **{"Jobs.Status": status()})
    assert PlatformJob(job_id=ID.value, payload_id=PAYLOAD.value) == platform_job


def test_jobs_of_a_list_without_metadata_are_queried(hostile: Make, job: Job) -> None:
    """Jobs with the same name are queried first, then the newest."""
    queried: list[str] = []

    def answer_status(requests: Any, context: Any) -> Any:
        (request,) = requests
        queried.append(request[-32:].decode())
        metadata = {IDEMPOTENCY_KEY: job.job_id} if queried[-1] == ID.value else {}
        yield status(job_id=Identifier(value=queried[-1]), metadata=metadata)

    name = "lung-segment-it-20240501120000"
    platform_job = find_job_in(
        hostile,
        job,
        listed(Identifier(value=32 * "1"), created=Timestamp(value=10)),
        listed(Identifier(value=32 * "2"), created=Timestamp(value=30), job_name=name),
        listed(ID, created=Timestamp(value=20), job_name=name),
        listed(Identifier(value=32 * "4"), created=Timestamp(value=40)),
        **{"Jobs.Status": answer_status},
    )
    assert PlatformJob(job_id=ID.value, payload_id=PAYLOAD.value) == platform_job
    assert [32 * "2", ID.value] == queried


@pytest.mark.parametrize(
    "listing",
    [
        [],
        [JobsListResponse()],
        [listed(OTHER, metadata={IDEMPOTENCY_KEY: 32 * "9"})],
        [listed(OTHER), listed(OTHER, metadata={"a": "b"}), listed(OTHER)],  # the second job has metadata
    ],
)
def test_a_job_that_is_not_listed_is_created(listing: list[JobsListResponse], hostile: Make, job: Job) -> None:
    """An empty list has no message, or one message without a job. `Jobs.Status` is not called."""
    answer = JobsCreateResponse(job_id=ID, payload_id=PAYLOAD)
    assert ID.value == find_job_in(hostile, job, *listing, **{"Jobs.Create": answer}).job_id


@pytest.mark.parametrize(
    "listing",
    [
        [JobsListResponse(header=ResponseHeader(code=-0x2003))],
        [listed(None, metadata={IDEMPOTENCY_KEY: 31 * "0" + "1"})],
        [listed(Identifier(value="x"), metadata={IDEMPOTENCY_KEY: 31 * "0" + "1"})],
        [listed(None)],
    ],
)
def test_an_invalid_list_creates_no_job(listing: list[JobsListResponse], hostile: Make, job: Job) -> None:
    """The error is retriable, so that the list is requested again later."""
    with pytest.raises(Retriable, match="create: the platform"):
        find_job_in(hostile, job, *listing, **{"Jobs.Create": b"must not be called"})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.binary(max_size=64) | st.builds(lambda text: status(messages=[text]).SerializeToString(), st.text()))
def test_any_bytes_are_an_answer_or_an_error(answer: bytes, hostile_bytes: Any, created: Job) -> None:
    """Every error is a DicomAdapterError with a printable message."""
    submitter, responses = hostile_bytes
    responses["answer"] = answer
    for step in (
        lambda: submitter.create_job(evolve(created, repeated=True)),
        lambda: submitter.add_metadata(created, created.metadata),
        lambda: submitter.start(created),
        lambda: submitter.status(created),
        lambda: submitter.cancel(created),
    ):
        try:
            step()
        except DicomAdapterError as error:
            assert str(error).isprintable()


@pytest.fixture
def hostile_bytes(hostile: Make) -> tuple[Any, dict[str, bytes]]:
    """Return a submitter whose platform returns `answer` for every call."""
    responses: dict[str, bytes] = {}
    names = ["Jobs.Create", "Jobs.List", "Jobs.AddMetadata", "Jobs.Start", "Jobs.Status", "Jobs.Cancel"]
    return hostile(dict.fromkeys(names, lambda requests, context: [responses["answer"]])), responses
