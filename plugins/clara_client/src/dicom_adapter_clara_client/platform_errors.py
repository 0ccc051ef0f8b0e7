"""Errors of gRPC calls to the platform, mapped to the error families of the core.

    gRPC status                                    raised     because
    UNAVAILABLE, DEADLINE_EXCEEDED                 Retriable  the network or the platform is down or slow
    RESOURCE_EXHAUSTED, ABORTED, CANCELLED         Retriable  the platform is busy, or gave the call up
    INTERNAL, UNKNOWN, DATA_LOSS                   Retriable  the platform failed, or an answer was damaged on its way
    UNAUTHENTICATED, PERMISSION_DENIED             Permanent  what the submitter shows is in its configuration
    UNIMPLEMENTED                                  Permanent  something else than the platform is at the endpoint
    INVALID_ARGUMENT, OUT_OF_RANGE, NOT_FOUND      Permanent  the platform understood, and refuses
    ALREADY_EXISTS, FAILED_PRECONDITION            Permanent  the same; the steps look whether they are done already

    code of a response header (gRPC status OK)     raised     because
    -0x1000, -0x1001  pipeline malformed, unknown  Permanent  the configuration names it
    -0x1100, -0x1101  pipeline's definition        Permanent  only an operator can fix it
    -0x2000, -0x2001  job malformed, unknown       Permanent  the platform has forgotten the job
    -0x2100           job's name invalid           Permanent  it would be the same name again
    -0x3001           payload unknown              Permanent  the platform has forgotten the job's files; the page with
                                                              this code is lost, but -0x1001 and -0x2001 are formed so
    -0x1002 … -0x1004, -0x2002, -0x2003            Retriable  the platform could not store or list
    all others below 0                             Retriable  NVIDIA's list is not complete: giving up after a day of
                                                              retries is better than faulting for what would pass
    0 and above                                    nothing    it is done

An answer that misses what the API promises is Retriable: something else may be in the platform's place for a while.
All these are `Refusal`s too, so that a step can look whether what it wants is done already.

Messages carry the platform's words, short and without control characters, because they end up in logs and the ledger.
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
# Sent by a proxy in front of the platform, or locally. All other statuses come from the platform itself.
NOT_ITS_WORD = frozenset(
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
HINTS = {
    StatusCode.UNAUTHENTICATED: "check the submitter's metadata and tls",
    StatusCode.PERMISSION_DENIED: "check the submitter's metadata and tls, and what it is allowed to do",
    StatusCode.UNIMPLEMENTED: "check that the endpoint leads to the platform's gRPC port",
}
LONGEST_TEXT = 300  # characters of the platform's text in a message
MOST_MESSAGES = 10  # of a response header


class Refusal(DicomAdapterError):
    """The platform did not perform a call. Always also a Permanent or a Retriable."""

    def __init__(self, message: str, *, is_its_word: bool = True, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_its_word = is_its_word  # the platform looked at the request
        self.is_missing = is_missing  # there is no such job or payload


class PermanentRefusal(Refusal, Permanent):
    """A refusal that a retry cannot change."""


class RetriableRefusal(Refusal, Retriable):
    """A refusal that a retry may change."""


@frozen(kw_only=True)
class Quoting:
    """How much of the platform's text a message may quote."""

    secrets: tuple[str, ...] = field(default=(), repr=False)  # never, even if the platform does
    anything: bool = True  # False for answers that may quote a patient's data

    def quoted(self, text: str) -> str:
        """Return the quotable text with a leading ": "; "" if there is none."""
        for secret in self.secrets:
            text = text.replace(secret, "…")
        said = one_line(text, LONGEST_TEXT) if self.anything else ""
        return said and f": {said}"


def refused_by_code(subject: str, code: int, messages: Iterable[str], quoting: Quoting) -> Refusal:
    """Return the error for a negative code of a response header. `subject` begins the message."""
    said = quoting.quoted("; ".join(islice(messages, MOST_MESSAGES)))
    kind = PermanentRefusal if code in PERMANENT_CODES else RetriableRefusal
    missing = code in (ClaraCode.NO_SUCH_JOB, ClaraCode.NO_SUCH_PAYLOAD)
    return kind(f"{subject}: the platform answered {_code_name(code)}{said}", is_missing=missing)


def refused_by_status(subject: str, status: StatusCode, details: str, quoting: Quoting) -> Refusal:
    """Return the error for a gRPC status other than OK."""
    hint = f"; {HINTS[status]}" if status in HINTS else ""
    kind = PermanentRefusal if status in PERMANENT_STATUSES else RetriableRefusal
    return kind(
        f"{subject}: the call ended with {status.name}{quoting.quoted(details)}{hint}",
        is_its_word=status not in NOT_ITS_WORD,
        is_missing=status is StatusCode.NOT_FOUND,
    )


def garbage(subject: str, why: str) -> Refusal:
    """Return the error for a successful response that violates the API."""
    return RetriableRefusal(f"{subject}: {why}; check that the endpoint leads to the platform itself")


def _code_name(code: int) -> str:
    """Format a code as in NVIDIA's documentation, with its meaning if that is published."""
    published = code in PERMANENT_CODES or code in RETRIABLE_CODES
    return f"-0x{-code:04X}" + (f" ({ClaraCode(code).name.lower().replace('_', ' ')})" if published else "")
