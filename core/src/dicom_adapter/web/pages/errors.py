"""Respond to errors with a page if a browser has requested a page; otherwise with problem details."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from litestar import Request, Response

from dicom_adapter.operations.story import Unknown
from dicom_adapter.web.http.problems import respond_to_failure
from dicom_adapter.web.pages.rendering import fragment, html

TITLES = {
    HTTPStatus.NOT_FOUND: "There is nothing here",
    HTTPStatus.FORBIDDEN: "Your role does not allow this",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not possible at the moment",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something went wrong",
}


def respond(request: Request[Any, Any, Any], failure: Exception) -> Response[Any]:
    """Return the response to a request whose handler raised."""
    response = respond_to_failure(request, failure)
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return response
    status = HTTPStatus.NOT_FOUND if isinstance(failure, Unknown) else HTTPStatus(response.status_code or 500)
    detail = str(json.loads(response.content)["detail"])
    return html(error_page(status, detail), status)


def error_page(status: HTTPStatus, detail: str) -> str:
    """Return the page for an error."""
    title = TITLES.get(status, status.phrase)
    return fragment("error.html", title=title, detail=detail[:1].upper() + detail[1:])
