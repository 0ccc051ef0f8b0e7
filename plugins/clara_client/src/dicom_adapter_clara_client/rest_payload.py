"""Requests about the files of a job's payload, and their responses."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from dicom_adapter_clara_client.platform_results import MAX_FILES, ListedFile
from dicom_adapter_clara_client.rest_errors import RestAnswer, invalid_response, json_object, problem_of
from dicom_adapter_clara_client.rest_request import RestRequest

LONGEST_LIST_BYTES = 32 << 20  # the list of a payload has about 150 bytes for each file
PAYLOAD_NOT_FOUND = "payload-not-found"  # a problem type, see docs/clara-rest-openapi.yaml


def payload_request(subject: str, method: str, payload_id: str) -> RestRequest:
    """Return a request about a whole payload."""
    path = f"/v1/payloads/{quote(payload_id, safe='')}"
    return RestRequest(subject=subject, method=method, path=path, longest_answer=LONGEST_LIST_BYTES)


def file_request(subject: str, payload_id: str, file: ListedFile) -> RestRequest:
    """Return the request for a file. An error must not quote the file's name, which may contain a patient's id."""
    path = f"/v1/payloads/{quote(payload_id, safe='')}/files/{quote(file.name.lstrip('/'))}"
    return RestRequest(subject=subject, method="GET", path=path, may_quote=False)


def files_of(subject: str, answer: RestAnswer) -> list[ListedFile]:
    """Return the files in the description of a payload. Raises Retriable for another response."""
    try:
        return _files(json_object(answer).get("files"))
    except ValueError as why:
        raise invalid_response(subject, answer, str(why)) from None


def is_missing_payload(answer: RestAnswer) -> bool:
    """Return whether the platform itself reports a missing payload; any proxy may respond with 404."""
    return answer.status == HTTPStatus.NOT_FOUND and problem_of(answer).name == PAYLOAD_NOT_FOUND


def _files(documents: Any) -> list[ListedFile]:
    if not isinstance(documents, list) or len(documents) > MAX_FILES:
        raise ValueError(f"its files are not a list of at most {MAX_FILES}")
    return [_file(document) for document in documents]


def _file(document: Any) -> ListedFile:
    name = document.get("path") if isinstance(document, dict) else None
    size = document.get("size") if isinstance(document, dict) else None
    if not isinstance(name, str) or type(size) is not int or size < 0:
        raise ValueError("one of its files has no path or no size")
    return ListedFile(name=name, size_bytes=size)
