"""Errors of the REST API: problem details (RFC 9457), as listed in `docs/clara-rest-openapi.yaml`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from dicom_adapter_clara_client.emulator.rules import (
    ClaraError,
    Conflict,
    InvalidValue,
    MalformedId,
    NotFound,
    PlatformFailure,
)
from dicom_adapter_clara_client.wire.codes import ClaraCode

MEDIA_TYPE = "application/problem+json"
PATH_CHARACTERS = "/:@!$&'()*+,;="  # RFC 3986 section 3.3; all others are percent-encoded

# Problems that the REST server finds: name, status, title.
BAD_REQUEST = ("bad-request", 400, "The request is malformed")
KEY_MISSING = ("idempotency-key-missing", 400, "Idempotency-Key is missing or not a quoted text")
UNAUTHORIZED = ("unauthorized", 401, "The bearer token is missing or wrong")
METADATA_NOT_FOUND = ("metadata-not-found", 404, "No such metadata")
PATH_READ_ONLY = ("path-read-only", 409, "Only input/ of a job's payload can be written")
IN_PROGRESS = ("request-in-progress", 409, "The first request with this key is still in progress")
FILE_PRESENT = ("file-present", 412, "The file exists already")
TOO_LARGE = ("too-large", 413, "The body is too large")
MEDIA_TYPE_WRONG = ("media-type", 415, "The body must be JSON")
RANGE = ("range", 416, "The file has no such range")
KEY_REUSED = ("idempotency-key-reused", 422, "The Idempotency-Key was used for another request")
VALUE_INVALID = ("value-invalid", 422, "A value is not allowed")
METADATA_INVALID = ("metadata-invalid", 422, "The metadata is refused")
DIGEST_MISMATCH = ("digest-mismatch", 422, "The body does not match its Content-Digest")
FAILED = ("failed", 500, "The platform failed")
STATUSES = {
    404: ("not-found", 404, "No such resource"),
    405: ("method-not-allowed", 405, "The resource does not have this method"),
}

# Problems that the platform finds, by code: name, title. Other codes have those of their exception class (FAMILIES).
CODES = {
    ClaraCode.NO_SUCH_PIPELINE: ("pipeline-not-found", "No such pipeline"),
    ClaraCode.NO_SUCH_JOB: ("job-not-found", "No such job"),
    ClaraCode.NO_SUCH_PAYLOAD: ("payload-not-found", "No such payload"),
    ClaraCode.NO_SUCH_FILE: ("file-not-found", "No such file"),
    ClaraCode.DEFINITION_MALFORMED: ("pipeline-invalid", "The pipeline's definition is malformed"),
    ClaraCode.DEFINITION_NOT_LOADED: ("pipeline-invalid", "The pipeline's definition cannot be loaded"),
    ClaraCode.JOB_NAME_INVALID: ("job-name-invalid", "The job's name is refused"),
    ClaraCode.JOB_INPUT_REFUSED: ("job-input-invalid", "The job's input payloads are refused"),
    ClaraCode.FILE_NAME_INVALID: ("path-invalid", "The file's path is refused"),
    ClaraCode.FILE_NAME_TAKEN: ("path-taken", "The path is used already"),
    ClaraCode.JOB_NOT_PENDING: ("job-not-pending", "The job is not pending"),
    ClaraCode.PAYLOAD_READ_ONLY: ("payload-read-only", "The payload is read-only"),
}
# By exception class: name, status, title. The status applies to the codes above, too.
FAMILIES: Mapping[type[ClaraError], tuple[str, int, str]] = {
    MalformedId: ("id-malformed", 400, "The id is malformed"),
    NotFound: ("not-found", 404, "No such object"),
    Conflict: ("metadata-present", 409, "One of the keys is present already"),
    InvalidValue: METADATA_INVALID,
    PlatformFailure: FAILED,
}


class ProblemAnswer(Exception):
    """Raised to respond with this problem."""

    def __init__(
        self,
        kind: tuple[str, int, str],
        detail: str = "",
        *,
        code: int | None = None,
        messages: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or kind[2])
        self.name, self.status, self.title = kind
        self.detail = detail
        self.code = code
        self.messages = messages
        self.headers = dict(headers or {})

    def document(self, instance: str) -> dict[str, Any]:
        """Return the problem details document. `instance`: the path of the call, not percent-encoded."""
        found: dict[str, Any] = {"type": f"/problems/{self.name}", "title": self.title, "status": self.status}
        if self.detail:
            found["detail"] = self.detail
        found["instance"] = quote(instance, safe=PATH_CHARACTERS)
        if self.code is not None:
            found["claraCode"] = self.code
        if self.messages:
            found["messages"] = list(self.messages)
        return found


def problem_of(error: ClaraError) -> ProblemAnswer:
    """Return the problem of an error of the platform."""
    family = next((kind for cls, kind in FAMILIES.items() if isinstance(error, cls)), FAILED)
    name, title = CODES.get(error.code, (family[0], family[2]))
    detail = "; ".join(error.messages)
    return ProblemAnswer((name, family[1], title), detail, code=int(error.code), messages=error.messages)


@contextmanager
def in_body() -> Iterator[None]:
    """Respond with 422 if an object that the body names does not exist; 404 is for objects in the path."""
    try:
        yield
    except NotFound as error:
        problem = problem_of(error)
        problem.status = 422
        raise problem from error


@contextmanager
def instead(code: ClaraCode, kind: tuple[str, int, str], when: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Respond with the problem `kind` to an error of the platform with `code`, if `when()` is true."""
    try:
        yield
    except ClaraError as error:
        if error.code is not code or not when():
            raise
        raise ProblemAnswer(kind, "; ".join(error.messages), code=int(error.code), messages=error.messages) from error
