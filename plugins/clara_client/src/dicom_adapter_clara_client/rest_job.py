"""Read and validate jobs of the REST API. Validation is needed: another server may answer at the endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from dicom_adapter import PlatformStatus
from dicom_adapter_clara_client.rest_errors import LONGEST_DETAIL, Json, RestAnswer, invalid_response, json_object

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,128}")  # part of paths; the API specifies 32 hexadecimal digits
STOPPED_EARLY = {"canceled", "evicted"}  # possible statuses of a job that was stopped before it was started
WORD = re.compile(r"[a-z][a-z-]{0,31}")  # a state or status


@frozen(kw_only=True)
class RestJob:
    """A job as the platform describes it."""

    job_id: str
    payload_id: str
    state: str
    status: str
    was_started: bool
    metadata: Mapping[str, str] = field(factory=dict, repr=False)
    messages: str = ""  # for people, in one line

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


@frozen(kw_only=True)
class RestPage:
    """One page of a list of jobs."""

    jobs: tuple[RestJob, ...]
    next_token: str  # "" on the last page


def job_of(subject: str, answer: RestAnswer, job_id: str = "") -> RestJob:
    """Return the job in a response. Raises Retriable if it has no job, or a job with another id than `job_id`."""
    try:
        job = _job(answer, json_object(answer))
    except ValueError as why:
        raise invalid_response(subject, answer, str(why)) from None
    if job_id and job.job_id.lower() != job_id.lower():
        raise invalid_response(subject, answer, "it is for another job")
    return job


def page_of(subject: str, answer: RestAnswer) -> RestPage:
    """Return the jobs in a response. Raises Retriable if the response is not a page of jobs."""
    try:
        document = json_object(answer)
        jobs, token = document.get("jobs"), document.get("nextPageToken") or ""
        if not isinstance(jobs, list) or not isinstance(token, str):
            raise invalid_response(subject, answer, "it is not a page of jobs")
        return RestPage(jobs=tuple(_job(answer, job) for job in jobs), next_token=token)
    except ValueError as why:
        raise invalid_response(subject, answer, str(why)) from None


def check_metadata(subject: str, answer: RestAnswer) -> None:
    """Raise Retriable unless the response contains metadata."""
    try:
        document = json_object(answer)
        _metadata({"metadata": document.get("metadata")})
    except ValueError as why:
        raise invalid_response(subject, answer, str(why)) from None


def _job(answer: RestAnswer, document: Any) -> RestJob:
    if not isinstance(document, dict):
        raise ValueError("it is JSON, but not an object")  # noqa: TRY004 - callers catch ValueError
    return RestJob(
        job_id=_matching(document, "jobId", IDENTIFIER),
        payload_id=_matching(document, "payloadId", IDENTIFIER),
        state=_matching(document, "state", WORD),
        status=_matching(document, "status", WORD),
        was_started=_is_time(document, "startedAt"),
        metadata=_metadata(document),
        messages=answer.quoted(_messages(document), LONGEST_DETAIL),
    )


def _matching(document: Json, key: str, pattern: re.Pattern[str]) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"its {key} is missing or invalid")
    return value


def _is_time(document: Json, key: str) -> bool:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"its {key} is not a time")
    return bool(value)


def _metadata(document: Json) -> Mapping[str, str]:
    value = document.get("metadata", {})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("its metadata is not an object of texts")
    return value


def _messages(document: Json) -> str:
    value: Any = document.get("messages", [])
    if not isinstance(value, list) or not all(isinstance(message, str) for message in value):
        raise ValueError("its messages are not a list of texts")
    return "; ".join(value)
