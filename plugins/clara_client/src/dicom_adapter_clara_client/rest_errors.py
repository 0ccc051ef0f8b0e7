"""Errors of REST calls to the platform, mapped to the error families of the core.

    response                                                          raised     because
    no connection, TLS failure, connection lost, timeout              Retriable  the network or the platform is down
    408, 425, 429, every 5xx except 501 and 505                       Retriable  the error is temporary
    409 with the problem type `request-in-progress`                   Retriable  the first attempt is still running
    2xx that violates the API (HTML, truncated, too long)             Retriable  a proxy may have answered instead
    1xx, and anything that is not HTTP                                Retriable  the same
    3xx                                                               Permanent  a redirect could send data elsewhere
    all other 4xx; 501, 505                                           Permanent  the platform refuses the request

Messages quote the platform's title, detail and code (RFC 9457), shortened and without control characters, because they
appear in logs and in the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from attrs import evolve, field, frozen

from dicom_adapter import Permanent, Retriable
from dicom_adapter_clara_client.platform_words import one_line

RETRIABLE_4XX = frozenset({408, 425, 429})
PERMANENT_5XX = frozenset({501, 505})
IN_PROGRESS = "request-in-progress"  # a problem type, see docs/clara-rest-openapi.yaml
LONGEST_TITLE, LONGEST_DETAIL = 100, 300  # characters in a message
LONGEST_HEADER = 100  # characters of Retry-After or Location in a message
HINTS = {
    401: "check the submitter's token",
    403: "check the submitter's token and its permissions",
    413: "the platform does not accept files of this size",
}
Json = Mapping[str, Any]


@frozen(kw_only=True)
class RestAnswer:
    """Response of the platform."""

    status: int
    headers: Mapping[str, str]  # case-insensitive
    body: bytes = b""
    defect: str = ""  # reason why the body cannot be used; "" if it is complete
    secret: str = field(default="", repr=False)  # replaced in quoted text

    def header(self, name: str) -> str:
        """Return a header's value in the form that a message may quote; "" if it is missing."""
        return self.quoted(self.headers.get(name, ""), LONGEST_HEADER)

    def quoted(self, text: str, most: int) -> str:
        """Return the platform's text in the form that a message may quote."""
        return one_line(text.replace(self.secret, "…") if self.secret else text, most)


@frozen(kw_only=True)
class ProblemDetails:
    """A problem details document (RFC 9457), safe to quote. Members that are missing or of a wrong type are empty."""

    name: str = ""  # the last part of its type, such as "job-not-found"
    title: str = ""
    detail: str = ""
    clara_code: int | None = None

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.title, self.detail) if part)
        return f"{text} (code {self.clara_code})" if self.clara_code is not None else text


def problem_of(answer: RestAnswer) -> ProblemDetails:
    """Return the problem that a response describes; an empty one if the response has no problem document."""
    try:
        document = json_object(answer)
    except ValueError:
        return ProblemDetails()
    code = document.get("claraCode")
    return ProblemDetails(
        name=_text(document, "type").rpartition("/")[2],
        title=answer.quoted(_text(document, "title"), LONGEST_TITLE),
        detail=answer.quoted(_text(document, "detail"), LONGEST_DETAIL),
        clara_code=code if type(code) is int and abs(code) < 2**31 else None,
    )


def json_object(answer: RestAnswer) -> Json:
    """Return the JSON object of a response. Raises ValueError with the reason if the body is not a JSON object."""
    if answer.defect:
        raise ValueError(answer.defect)
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise ValueError(f"it is {answer.quoted(media_type, LONGEST_HEADER) or 'of no declared type'}, not JSON")
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise ValueError("it is not valid JSON") from None
    if not isinstance(document, dict):
        raise ValueError("it is JSON, but not an object")  # noqa: TRY004 - callers catch ValueError
    return document


def conflicts(answer: RestAnswer) -> bool:
    """Return whether the platform refuses because the requested state already exists."""
    return answer.status == HTTPStatus.CONFLICT and problem_of(answer).name != IN_PROGRESS


def invalid_response(subject: str, answer: RestAnswer, why: str) -> Retriable:
    """Return the error for a successful response that violates the API."""
    return Retriable(
        f"{subject}: the response {answer.status} is not one of a Clara REST API: {why}; "
        "check that the endpoint leads to the platform itself"
    )


def refusal(subject: str, answer: RestAnswer, *, may_quote: bool = True) -> Permanent | Retriable:
    """Return the error for an unexpected response. Without `may_quote`, the message omits the platform's detail."""
    if 200 <= answer.status < 300:
        return invalid_response(subject, answer, "the API does not define this status for the call")
    if 300 <= answer.status < 400:
        target = answer.header("location") or "nowhere"
        return Permanent(
            f"{subject}: the platform redirects ({answer.status}) to {target}, which is not followed; "
            "set endpoint to the platform's own address"
        )
    problem = problem_of(answer)
    message = _message(subject, answer, problem if may_quote else evolve(problem, detail=""))
    return Retriable(message) if _may_pass(answer.status, problem) else Permanent(message)


def _may_pass(status: int, problem: ProblemDetails) -> bool:
    if status == HTTPStatus.CONFLICT:
        return problem.name == IN_PROGRESS
    if 400 <= status < 500:
        return status in RETRIABLE_4XX
    return status not in PERMANENT_5XX


def _message(subject: str, answer: RestAnswer, problem: ProblemDetails) -> str:
    clauses = [f"the platform answered {answer.status} {_phrase(answer.status)}".rstrip()]
    clauses += [text for text in (str(problem), HINTS.get(answer.status, "")) if text]
    wait = answer.header("retry-after")
    if wait:
        clauses.append(f"it asks to retry after {wait}{' s' if wait.isdigit() else ''}")
    return f"{subject}: {'; '.join(clauses)}"


def _phrase(status: int) -> str:
    """Return the standard reason phrase of a status, not the peer's."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else ""


def _text(document: Json, key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""
