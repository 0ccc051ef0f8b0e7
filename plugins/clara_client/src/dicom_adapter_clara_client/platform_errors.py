"""Errors of gRPC calls to the platform, mapped to the error families of the core.

    gRPC status                                    raised     because
    UNAVAILABLE, DEADLINE_EXCEEDED                 Retriable  the network or the platform is down or slow
    RESOURCE_EXHAUSTED, ABORTED, CANCELLED         Retriable  the platform is busy, or cancelled the call
    INTERNAL, UNKNOWN, DATA_LOSS                   Retriable  the platform failed, or a response was damaged
    UNAUTHENTICATED, PERMISSION_DENIED             Permanent  the configured credentials are wrong
    UNIMPLEMENTED                                  Permanent  the endpoint is not the platform
    INVALID_ARGUMENT, OUT_OF_RANGE, NOT_FOUND      Permanent  the platform refuses the request
    ALREADY_EXISTS, FAILED_PRECONDITION            Permanent  the same, or the step is done already

    code of a response header (gRPC status OK)     raised     because
    -0x1000, -0x1001  pipeline id malformed,       Permanent  the pipeline id in the configuration is wrong
                      pipeline unknown
    -0x1100, -0x1101  pipeline's definition        Permanent  only an operator can fix it
    -0x2000, -0x2001  job id malformed,            Permanent  the platform has no such job any more
                      job unknown
    -0x2100           job's name invalid           Permanent  a retry would send the same name
    -0x3001           payload unknown              Permanent  the payload does not exist any more; this code is not
                                                              published; compare -0x1001 and -0x2001
    -0x1002 … -0x1004, -0x2002, -0x2003            Retriable  the platform could not store, list or update
    all others below 0                             Retriable  NVIDIA's list is incomplete; it may be temporary
    0 and above                                    nothing    success

A response that violates the API is Retriable: something else may be listening at the endpoint for a while. All these
errors are also of class `Refusal`, so that a step can check whether it is done already.

Messages quote the platform's text, shortened and without control characters, because they appear in logs and in the
ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from attrs import field, frozen
from grpc import StatusCode

from dicom_adapter import DicomAdapterError, Permanent, Retriable
from dicom_adapter_clara_client.platform_words import one_line
from dicom_adapter_clara_client.wire.codes import ClaraCode

PERMANENT_CODES = frozenset(
    {
        ClaraCode.PIPELINE_ID_MALFORMED,
        ClaraCode.NO_SUCH_PIPELINE,
        ClaraCode.DEFINITION_MALFORMED,
        ClaraCode.DEFINITION_NOT_LOADED,
        ClaraCode.JOB_ID_MALFORMED,
        ClaraCode.NO_SUCH_JOB,
        ClaraCode.JOB_NAME_INVALID,
        ClaraCode.NO_SUCH_PAYLOAD,
    }
)
RETRIABLE_CODES = frozenset(
    {
        ClaraCode.PIPELINE_NOT_STORED,
        ClaraCode.PIPELINES_NOT_LISTED,
        ClaraCode.PIPELINE_NOT_UPDATED,
        ClaraCode.JOB_NOT_STORED,
        ClaraCode.JOBS_NOT_LISTED,
    }
)
PERMANENT_STATUSES = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.OUT_OF_RANGE,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNIMPLEMENTED,
    }
)
# May come from a proxy or from the local gRPC library. All other statuses come from the platform itself.
NOT_FROM_PLATFORM = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNIMPLEMENTED,
    }
)
# The next step in the message, by status.
HINTS = {
    StatusCode.UNAUTHENTICATED: "check the submitter's metadata and tls",
    StatusCode.PERMISSION_DENIED: "check the submitter's metadata and tls, and its permissions",
    StatusCode.UNIMPLEMENTED: "check that the endpoint leads to the platform's gRPC port",
}
LONGEST_TEXT = 300  # characters of the platform's text in a message
MAX_MESSAGES = 10  # quoted from a response header


class Refusal(DicomAdapterError):
    """The platform did not perform a call. Base of PermanentRefusal and RetriableRefusal."""

    def __init__(self, message: str, *, from_platform: bool = True, is_missing: bool = False) -> None:
        super().__init__(message)
        self.from_platform = from_platform  # the refusal comes from the platform itself, not from a proxy
        self.is_missing = is_missing  # the job or payload does not exist


class PermanentRefusal(Refusal, Permanent):
    """A refusal after which a retry cannot succeed."""


class RetriableRefusal(Refusal, Retriable):
    """A refusal after which a retry may succeed."""


@frozen(kw_only=True)
class Quoting:
    """How much of the platform's text a message may quote."""

    secrets: tuple[str, ...] = field(default=(), repr=False)  # replaced in quoted text
    anything: bool = True  # False for answers that may quote a patient's data

    def quoted(self, text: str) -> str:
        """Return the quotable text with a leading ": "; "" if there is none."""
        for secret in self.secrets:
            text = text.replace(secret, "…")
        line = one_line(text, LONGEST_TEXT) if self.anything else ""
        return line and f": {line}"


def refused_by_code(subject: str, code: int, messages: Iterable[str], quoting: Quoting) -> Refusal:
    """Return the error for a negative code of a response header. The message starts with `subject`."""
    quoted = quoting.quoted("; ".join(islice(messages, MAX_MESSAGES)))
    kind = PermanentRefusal if code in PERMANENT_CODES else RetriableRefusal
    missing = code in (ClaraCode.NO_SUCH_JOB, ClaraCode.NO_SUCH_PAYLOAD)
    return kind(f"{subject}: the platform answered {_code_name(code)}{quoted}", is_missing=missing)


def refused_by_status(subject: str, status: StatusCode, details: str, quoting: Quoting) -> Refusal:
    """Return the error for a gRPC status other than OK."""
    hint = f"; {HINTS[status]}" if status in HINTS else ""
    kind = PermanentRefusal if status in PERMANENT_STATUSES else RetriableRefusal
    return kind(
        f"{subject}: the call ended with {status.name}{quoting.quoted(details)}{hint}",
        from_platform=status not in NOT_FROM_PLATFORM,
        is_missing=status is StatusCode.NOT_FOUND,
    )


def invalid_response(subject: str, why: str) -> Refusal:
    """Return the error for a successful response that violates the API."""
    return RetriableRefusal(f"{subject}: {why}; check that the endpoint leads to the platform itself")


def _code_name(code: int) -> str:
    """Format a code as in NVIDIA's documentation, with its meaning if that is published."""
    published = code in PERMANENT_CODES or code in RETRIABLE_CODES
    return f"-0x{-code:04X}" + (f" ({ClaraCode(code).name.lower().replace('_', ' ')})" if published else "")
