"""The outcome of an upload for each response of a server: delivered, repeated later, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter import Permanent, Retriable
from dicom_adapter.testing.submitter_jobs import PATIENT_ID, make_job, make_upload
from dicom_adapter_delivery.dicomweb_submitter import DicomwebSubmitter
from support.stow_server import Answer, SeenRequest, StowServer, failed, found, stored

UID = "1.2.3.0"
JOB = make_job(1, "results")
JSON = {"Content-Type": "application/dicom+json"}
SEARCH = f"/dicom-web/studies/1.2.4/series/1.2.5/instances?SOPInstanceUID={UID}"


def script(server: StowServer, store: Answer, search: Answer | None = None) -> None:
    """Answer store transactions and searches as given. A search that is not expected fails."""

    def answer(request: SeenRequest) -> Answer:
        if request.method == "POST":
            return store
        assert search is not None, "the submitter must not search in this case"
        assert SEARCH == request.path
        return search

    server.answer = answer


def upload(submitter: DicomwebSubmitter) -> None:
    submitter.upload(JOB, make_upload(0, b"an instance"))


# --- delivered --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "store",
    [
        Answer(status=200, body=stored(UID)),
        Answer(status=200, body=[stored(UID)]),
        Answer(status=200, body=stored(UID + "\0")),
        Answer(status=202, body=stored(UID, warning=0xB000)),
        Answer(status=200),
        Answer(status=409, body=failed(UID, 0x0111)),
        Answer(status=409, body=failed(UID, "273")),
        Answer(status=200, body=failed(UID, 0x0111)),
        Answer(status=409, body=failed(UID, 0xB00E)),
    ],
    ids=["stored", "list", "padded", "warning", "empty-200", "duplicate", "as-text", "duplicate-200", "azure"],
)
def test_stored_instance_is_delivered(server: StowServer, submitter: DicomwebSubmitter, store: Answer) -> None:
    """The server has it, from this request or from an earlier one. No search is needed."""
    script(server, store)
    upload(submitter)
    assert [b"an instance"] == [request.part for request in server.requests]


@pytest.mark.parametrize(
    ("store", "words"),
    [
        (Answer(status=202, body=stored(UID, warning=0xB006)), "warning 0xB006 (elements were discarded)"),
        (Answer(status=409, body=failed(UID, 0x0111)), "failure reason 0x0111 (duplicate SOP instance)"),
        (Answer(status=409), "the server answered 409 Conflict without a reason"),
    ],
    ids=["warning", "duplicate", "conflict"],
)
def test_warning_is_logged_without_patient_data(
    server: StowServer, submitter: DicomwebSubmitter, store: Answer, words: str
) -> None:
    """The instance is delivered; an operator can see what the server has changed, or that it already had it."""
    script(server, store, Answer(body=found(UID)))
    with capture_logs() as logs:
        upload(submitter)
    [entry] = logs
    assert ("instance_delivered_with_status", "archive", UID, words) == tuple(
        entry[key] for key in ("event", "submitter", "sop_instance_uid", "status")
    )
    assert PATIENT_ID not in str(entry)


# --- refused, or not now ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", ["00081198", "0008119A"], ids=["failed-sops", "other-failures"])
@pytest.mark.parametrize("status", [200, 202, 400, 409])
def test_failure_in_the_body_counts_whatever_the_status(
    server: StowServer, submitter: DicomwebSubmitter, status: int, sequence: str
) -> None:
    """A 2xx whose body lists the instance as failed is a failure.

    Verified to fail when only the status is evaluated.
    """
    script(server, Answer(status=status, body={**stored(UID), **failed(UID, 0xA900, sequence)}))
    with pytest.raises(
        Permanent, match=rf"{status} \w+.*not stored, failure reason 0xA900 \(data set does not match SOP"
    ):
        upload(submitter)


@pytest.mark.parametrize(
    ("reason", "error", "words"),
    [
        (0xA700, Retriable, "out of resources"),
        (0xA7FF, Retriable, "out of resources"),
        (0x0213, Retriable, "resource limitation"),
        (0x0110, Retriable, "processing failure"),
        (0xA901, Permanent, "data set does not match SOP class"),
        (0xC000, Permanent, "cannot understand"),
        (0xC122, Permanent, "transfer syntax not supported"),
        (0x0122, Permanent, "SOP class not supported"),
        (0x0124, Permanent, "not authorized"),
        (0x1234, Permanent, "a code of the server"),
        (None, Permanent, "the instance was not stored; see the log of the server"),
        ("no number", Permanent, "the instance was not stored; see the log of the server"),
        (-1, Permanent, "the instance was not stored; see the log of the server"),
    ],
)
def test_failure_reason_decides(
    server: StowServer, submitter: DicomwebSubmitter, reason: Any, error: type[Exception], words: str
) -> None:
    """PS3.18 table I.2-2: a repetition can help only after a lack of resources or a processing failure."""
    script(server, Answer(status=202, body=failed(UID, reason), headers={"Retry-After": "120"}))
    with pytest.raises(error) as raised:
        upload(submitter)
    assert error is type(raised.value)
    assert words in str(raised.value).replace("; it asks to retry after 120 s", "")


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, Permanent, "400 Bad Request"),
        (401, Permanent, "401 Unauthorized; check token, token-file, or user and password"),
        (403, Permanent, "403 Forbidden; check token, token-file, or user and password, and the rights of the user"),
        (404, Permanent, "check that url is the base of the server's DICOMweb service: /studies is appended to it"),
        (408, Retriable, "408 Request Timeout"),
        (413, Permanent, "raise the server's limit for the size of a request, then retry the job"),
        (415, Permanent, "must support multipart/related with application/dicom"),
        (425, Retriable, "425 Too Early"),
        (429, Retriable, "429 Too Many Requests; it asks to retry after 7 s"),
        (500, Retriable, "500 Internal Server Error"),
        (501, Permanent, "501 Not Implemented"),
        (502, Retriable, "502 Bad Gateway"),
        (503, Retriable, "503 Service Unavailable; it asks to retry after 7 s"),
        (505, Permanent, "505 HTTP Version Not Supported"),
        (507, Retriable, "507 Insufficient Storage"),
        (599, Retriable, "the server answered 599"),
    ],
)
def test_status_decides_if_the_body_has_no_reason(
    server: StowServer, submitter: DicomwebSubmitter, status: int, error: type[Exception], words: str
) -> None:
    """The error has the status, the next step, and the time of `Retry-After`."""
    script(server, Answer(status=status, body=b"<html>Patient NOBODY-4711</html>", headers={"Retry-After": "7"}))
    with pytest.raises(error) as raised:
        upload(submitter)
    assert error is type(raised.value)
    assert words in str(raised.value)
    assert str(raised.value).startswith(f"job {JOB.job_id}: upload of instance 1: ")
    assert PATIENT_ID not in str(raised.value), "text of the server may contain patient data"


def test_redirect_is_not_followed(server: StowServer, submitter: DicomwebSubmitter) -> None:
    """It could send patient data, and the credentials, elsewhere."""
    script(server, Answer(status=307, headers={"Location": "http://elsewhere.example/studies"}))
    with pytest.raises(
        Permanent, match=r"redirects \(307\) to http://elsewhere.example/studies, which is not followed"
    ):
        upload(submitter)
    assert 1 == len(server.requests)


# --- unclear: the submitter searches ----------------------------------------------------------------------------------

# Name of the case, response, and the error if the server does not find the instance
UNCLEAR: Sequence[tuple[str, Answer, type[Exception]]] = [
    ("conflict", Answer(status=409), Permanent),
    ("conflict-html", Answer(status=409, body=b"<html>"), Permanent),
    ("conflict-no-reason", Answer(status=409, body=failed(UID, None)), Permanent),
    ("conflict-0110", Answer(status=409, body=failed(UID, 0x0110)), Retriable),
    ("conflict-but-stored", Answer(status=409, body=stored(UID)), Permanent),
    ("html", Answer(status=200, body=b"<html>log in</html>", headers={"Content-Type": "text/html"}), Retriable),
    ("xml", Answer(status=200, body=b"<x/>", headers={"Content-Type": "application/dicom+xml"}), Retriable),
    ("no-json", Answer(status=200, body=b"{", headers=JSON), Retriable),
    ("deep-json", Answer(status=200, body=b"[" * 200_000, headers=JSON), Retriable),
    ("other-json", Answer(status=200, body={"status": "ok"}), Retriable),
    ("odd-json", Answer(status=200, body={"00081199": [1], "00081198": {"Value": None}}), Retriable),
    ("other-instance", Answer(status=200, body=stored("9.9.9")), Retriable),
    ("names-nothing", Answer(status=200, body={"00081199": {"vr": "SQ"}}), Retriable),
    ("empty-202", Answer(status=202), Retriable),
    ("204", Answer(status=204), Retriable),
    ("compressed", Answer(status=200, body=b"x", headers={"Content-Encoding": "gzip"}), Retriable),
    ("huge", Answer(status=200, body=b"x" * 2_000_000), Retriable),
]
unclear = pytest.mark.parametrize(("store", "error"), [case[1:] for case in UNCLEAR], ids=[case[0] for case in UNCLEAR])


@unclear
def test_unclear_response_is_delivered_if_the_server_finds_the_instance(
    server: StowServer, submitter: DicomwebSubmitter, store: Answer, error: type[Exception]
) -> None:
    """Some servers answer 409 without a reason when they already have the instance."""
    script(server, store, Answer(body=found("1.2.3.99", UID)))
    upload(submitter)


@unclear
@pytest.mark.parametrize("search", [Answer(body=[]), Answer(status=204), Answer(body=found("1.2.3.99"))])
def test_unclear_response_is_no_delivery_if_the_server_does_not_find_the_instance(
    server: StowServer, submitter: DicomwebSubmitter, store: Answer, error: type[Exception], search: Answer
) -> None:
    """By the standard, 409 means that nothing was stored; a page of a proxy does not show that anything was stored.

    Verified to fail when a 409 alone counts as delivered.
    """
    script(server, store, search)
    with pytest.raises(error, match="the server does not find it; ") as raised:
        upload(submitter)
    assert error is type(raised.value)


@pytest.mark.parametrize(
    "search",
    [Answer(status=404), Answer(status=403), Answer(status=500), Answer(body=b"<html>"), Answer(body={"a": 1})],
    ids=["404", "403", "500", "html", "object"],
)
def test_unclear_response_is_no_delivery_if_the_server_does_not_search(
    server: StowServer, submitter: DicomwebSubmitter, search: Answer
) -> None:
    """The instance is sent again, rather than lost."""
    script(server, Answer(status=202), search)
    with pytest.raises(Retriable, match="the server does not answer a search for it; check that url"):
        upload(submitter)


@pytest.mark.parametrize("uid", ["..", "1/../2", "1.2.", "1" * 65, "1.2.3\r\nX: y", ""])
def test_invalid_uid_is_never_part_of_a_path(server: StowServer, submitter: DicomwebSubmitter, uid: str) -> None:
    """An instance with an invalid UID is not searched for."""
    script(server, Answer(status=202))
    with pytest.raises(Retriable, match="it could not be searched for"):
        submitter.upload(JOB, make_upload(0, b"an instance", sop_instance_uid=uid))
    assert ["/dicom-web/studies"] == [request.path for request in server.requests]


def test_response_with_empty_sequences_is_judged_by_status(server: StowServer, submitter: DicomwebSubmitter) -> None:
    """A response of Orthanc 1.10 for an instance that it could not read: both sequences have no items."""
    module: Mapping[str, Any] = {
        "00080005": {"Value": ["ISO_IR 100"], "vr": "CS"},
        "00081198": {"vr": "SQ"},
        "00081199": {"vr": "SQ"},
    }
    script(server, Answer(status=400, body=json.dumps(module).encode()))
    with pytest.raises(Permanent, match="400 Bad Request"):
        upload(submitter)
