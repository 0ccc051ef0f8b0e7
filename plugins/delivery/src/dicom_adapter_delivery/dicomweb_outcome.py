"""The outcome of a store transaction (PS3.18 section 10.5.3) for the one instance of the request.

response                                             the instance is
200 or 202, in the Referenced SOP Sequence           delivered; a Warning Reason is logged
200 without a body                                   delivered: the status means that all instances were stored
200, 202, 400, 409, in the Failed SOP Sequence or the
  Other Failures Sequence with
  0x0111 duplicate, 0xB00E (Azure: already exists)   delivered: the server already has it
  0x0110, 0x0213, 0xA7xx                             not stored for now: Retriable
  another reason                                     refused: Permanent
409 with 0x0110 or without a reason                  unclear: by the standard, nothing was stored, but some servers
                                                     answer in this way for an instance that they already have
any other 2xx                                        unclear: a proxy may have answered instead
408, 425, 429, every 5xx except 501 and 505          not stored for now: Retriable
3xx                                                  refused: a redirect could send data elsewhere
all other 4xx; 501, 505                              refused: Permanent

In the unclear cases the submitter searches for the instance. Text of the server is not quoted: it may contain patient
data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from attrs import frozen

from dicom_adapter import Permanent, Retriable
from dicom_adapter_delivery.dicomweb_messages import DicomwebResponse

REFERENCED_SOPS, FAILED_SOPS, OTHER_FAILURES = "00081199", "00081198", "0008119A"
REFERENCED_UID, FAILURE_REASON, WARNING_REASON = "00081155", "00081197", "00081196"
SOP_INSTANCE_UID = "00080018"

ALREADY_THERE = frozenset({0x0111, 0xB00E})
NOT_NOW = frozenset({0x0110, 0x0213})  # a repetition may succeed
GENERAL_FAILURE = 0x0110
OUT_OF_RESOURCES = 0xA700  # with any low byte
MEANINGS = {
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
    0x0213: "resource limitation",
    0xB000: "data elements were coerced",
    0xB00E: "the instance already exists",
    0xB006: "elements were discarded",
    0xB007: "data set does not match SOP class",
    0xC122: "transfer syntax not supported",
}
RANGES = (  # mask, masked code, meaning
    (0xFF00, 0xA700, "out of resources"),
    (0xFF00, 0xA900, "data set does not match SOP class"),
    (0xF000, 0xC000, "cannot understand"),
)
RETRIABLE_4XX = frozenset({408, 425, 429})
PERMANENT_5XX = frozenset({501, 505})
WITH_MODULE = frozenset({200, 202, 400, 409})  # the body may be a Store Instances Response Module (PS3.18 annex I)
CREDENTIALS = "check token, token-file, or user and password"
NOT_DICOMWEB = "check that url is the base of the server's DICOMweb service: /studies is appended to it"
NOT_THE_SERVER = "check that url leads to the DICOMweb server itself"
SERVER_LOG = "see the log of the server"
HINTS = {  # next step for an operator, by status
    401: CREDENTIALS,
    403: f"{CREDENTIALS}, and the rights of the user",
    404: NOT_DICOMWEB,
    405: NOT_DICOMWEB,
    406: "the server must support responses of type application/dicom+json",
    411: "a proxy in between must not remove Content-Length",
    413: "raise the server's limit for the size of a request, then retry the job",
    415: "the server must support multipart/related with application/dicom",
    501: NOT_DICOMWEB,
}
LONGEST_HEADER = 100  # characters of a header in a message


@frozen(kw_only=True)
class StowJudgement:
    """The judgement of a response after which the server has the instance, or may have it."""

    is_delivered: bool  # False: the response is unclear
    # Text for operators without patient data: the server's warning, the reason that shows that the server already has
    # the instance, or the description of an unclear response.
    words: str = ""
    hint: str = ""  # of an unclear response: the next step if the server does not have the instance
    is_retriable: bool = True  # of an unclear response: a repetition may help if the server does not have the instance


def judge_store(subject: str, response: DicomwebResponse, sop_instance_uid: str) -> StowJudgement:
    """Return the judgement of a response. Raises Retriable or Permanent if the instance was certainly not stored."""
    module = _module(response) if response.status in WITH_MODULE else None
    if module is not None:
        failures = [*_items(module, FAILED_SOPS), *_items(module, OTHER_FAILURES)]
        if failures:
            return _judge_failure(subject, response, _code(failures[0], FAILURE_REASON))
        stored = [item for item in _items(module, REFERENCED_SOPS) if _uid(item, REFERENCED_UID) == sop_instance_uid]
        if stored and response.status in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
            code = _code(stored[0], WARNING_REASON)
            return StowJudgement(is_delivered=True, words="" if code is None else f"warning {describe_reason(code)}")
    if response.status == HTTPStatus.OK and not response.body and not response.defect:
        return StowJudgement(is_delivered=True)
    if 200 <= response.status < 300:
        words = _what_is_wrong(response, module)
        return StowJudgement(is_delivered=False, words=words, hint=NOT_THE_SERVER)
    if response.status == HTTPStatus.CONFLICT:
        words = f"{_answer(response)} without a reason"
        return StowJudgement(is_delivered=False, words=words, hint=SERVER_LOG, is_retriable=False)
    raise refusal(subject, response)


def _judge_failure(subject: str, response: DicomwebResponse, reason: int | None) -> StowJudgement:
    if reason is not None and reason in ALREADY_THERE:
        return StowJudgement(is_delivered=True, words=f"failure reason {describe_reason(reason)}")
    words = f"{_answer(response)}: the instance was not stored"
    if reason is not None:
        words += f", failure reason {describe_reason(reason)}"
    if response.status == HTTPStatus.CONFLICT and reason in (None, GENERAL_FAILURE):
        return StowJudgement(is_delivered=False, words=words, hint=SERVER_LOG, is_retriable=reason is not None)
    words += _retry_after(response)
    if reason in NOT_NOW or (reason is not None and reason & 0xFF00 == OUT_OF_RESOURCES):
        raise Retriable(f"{subject}: {words}")
    raise Permanent(f"{subject}: {words}; {SERVER_LOG}")


def refusal(subject: str, response: DicomwebResponse) -> Permanent | Retriable:
    """Return the error for a status that is not a success."""
    status = response.status
    if 300 <= status < 400:
        target = _quoted(response.headers.get("location", "")) or "nowhere"
        return Permanent(
            f"{subject}: the server redirects ({status}) to {target}, which is not followed; "
            "set url to the server's own address"
        )
    hint = f"; {HINTS[status]}" if status in HINTS else ""
    message = f"{subject}: {_answer(response)}{hint}{_retry_after(response)}"
    may_pass = status in RETRIABLE_4XX if 400 <= status < 500 else status not in PERMANENT_5XX
    return Retriable(message) if may_pass else Permanent(message)


def contains_instance(response: DicomwebResponse, sop_instance_uid: str) -> bool | None:
    """Return whether the results of a search contain the instance; None if the response does not show it."""
    if response.status == HTTPStatus.NO_CONTENT:
        return False
    if response.status != HTTPStatus.OK:
        return None
    found = _json(response)
    if not isinstance(found, list):
        return None
    return any(isinstance(item, dict) and _uid(item, SOP_INSTANCE_UID) == sop_instance_uid for item in found)


def describe_reason(code: int) -> str:
    """Return a Failure Reason or Warning Reason with its meaning."""
    meaning = MEANINGS.get(code, "")
    for mask, value, text in RANGES:
        meaning = meaning or (text if code & mask == value else "")
    return f"0x{code:04X} ({meaning or 'a code of the server'})"


# --- the Store Instances Response Module ------------------------------------------------------------------------------


def _module(response: DicomwebResponse) -> Mapping[str, Any] | None:
    """Return the module; None if the body is something else. Some servers send a list of one module."""
    content = _json(response)
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if isinstance(content, dict) and content.keys() & {REFERENCED_SOPS, FAILED_SOPS, OTHER_FAILURES}:
        return content
    return None


def _json(response: DicomwebResponse) -> Any:
    try:
        return None if response.defect else json.loads(response.body)
    except (ValueError, RecursionError):
        return None


def _items(module: Mapping[str, Any], tag: str) -> Sequence[Mapping[str, Any]]:
    """Return the items of a sequence; an item that is no object is an empty one."""
    return [item if isinstance(item, dict) else {} for item in _values(module, tag)]


def _values(item: Mapping[str, Any], tag: str) -> Sequence[Any]:
    attribute = item.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _uid(item: Mapping[str, Any], tag: str) -> str:
    values = _values(item, tag)
    return values[0].rstrip("\0 ") if values and isinstance(values[0], str) else ""


def _code(item: Mapping[str, Any], tag: str) -> int | None:
    """Return the value of an attribute with VR US, which some servers send as text."""
    for value in _values(item, tag)[:1]:
        try:
            code = int(value)
        except (ValueError, TypeError, OverflowError):
            return None
        return code if 0 <= code <= 0xFFFF else None
    return None


# --- words ------------------------------------------------------------------------------------------------------------


def _answer(response: DicomwebResponse) -> str:
    phrase = HTTPStatus(response.status).phrase if response.status in set(HTTPStatus) else ""
    return f"the server answered {response.status} {phrase}".rstrip()


def _retry_after(response: DicomwebResponse) -> str:
    wait = _quoted(response.headers.get("retry-after", ""))
    return f"; it asks to retry after {wait}{' s' if wait.isdigit() else ''}" if wait else ""


def _what_is_wrong(response: DicomwebResponse, module: Mapping[str, Any] | None) -> str:
    if response.defect:
        return f"{_answer(response)}, but {response.defect}"
    if module is not None:
        return f"{_answer(response)}, but its response does not name the instance"
    kind = _quoted(response.media_type) or "of no declared type"
    return f"{_answer(response)}, but its response is {kind} and no Store Instances Response in JSON"


def _quoted(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:LONGEST_HEADER])
