"""Requests of the admin API: pages of lists, invalid requests, patient data, and web pages of other sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dicom_adapter.testing import make_instance, make_study
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.admin.api import admin_routes
from dicom_adapter.web.admin.commands import Audits
from dicom_adapter.web.http.strict_requests import DECLARES_QUERY

PROBLEM = "application/problem+json"
JOB = "0" * 32
PLANTED = "PLANTED-4711"
QUARANTINING = """
[ae-titles.A]
processor = "by-study"
settings = { required = "AdmissionID", pipeline-a = "p1" }
"""
CHANGES = [
    ("/api/jobs/{job}/retry", None),
    ("/api/jobs/{job}/cancel", None),
    ("/api/jobs/{job}/priority", {"priority": "lower"}),
    ("/api/instances/requeue", {"ids": [1]}),
    ("/api/instances/discard", {"ids": [1]}),
    ("/api/results/requeue", {"ids": [1]}),
    ("/api/results/discard", {"ids": [1]}),
    ("/api/ae-titles/LUNG/restart", None),
    ("/api/ae-titles/LUNG/end-wait", {"studyInstanceUids": ["2.25.1"]}),
    ("/api/configuration/plan", None),
    ("/api/configuration/apply", {}),
    ("/api/audit", {}),
]
FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
]


# --- pages ------------------------------------------------------------------------------------------------------------


def add_jobs(api: Any, *numbers: int) -> None:
    for number in numbers:
        api.adapter.receive(*make_study(study_uid=f"2.25.{number}"))
        api.adapter.advance(6)


def add_instances(api: Any, *numbers: int) -> None:
    for number in numbers:
        api.adapter.receive(make_instance(study_uid=f"2.25.{number}"), ae_title="A")


@pytest.mark.parametrize(
    ("path", "key", "configuration", "add"),
    [
        ("/api/jobs", "jobId", "", add_jobs),
        ("/api/instances?state=quarantined", "instanceId", QUARANTINING, add_instances),
        ("/api/events", "number", QUARANTINING, add_instances),
    ],
)
def test_a_cursor_stays_valid_while_rows_are_added(
    api: Any, make_api: Any, path: str, key: str, configuration: str, add: Callable[..., None]
) -> None:
    """New rows are on the first page only: the next pages neither repeat nor omit a row.

    Verified to fail when a cursor is the number of the rows before it.
    """
    site = make_api(configuration) if configuration else api
    add(site, 1, 2, 3)
    before = [one[key] for one in site.viewer.get(path).json()["items"]]
    assert 3 <= len(before)
    page = site.viewer.get(path, params={"limit": 1}).json()
    seen = [one[key] for one in page["items"]]
    for number in range(10, 60):
        if page["next"] is None:
            break
        add(site, number)
        page = site.viewer.get(path, params={"limit": 1, "after": page["next"]}).json()
        seen += [one[key] for one in page["items"]]
    assert before == seen


def test_quarantined_instances_are_selected_by_a_part_of_their_reason(make_api: Any) -> None:
    """Case is ignored, and `%` and `_` are no wildcards.

    Verified to fail when the filter is not passed on to the query.
    """
    site = make_api(QUARANTINING)
    add_instances(site, 1)
    [instance] = site.viewer.get("/api/instances", params={"state": "quarantined"}).json()["items"]

    def selected(reason: str, path: str = "/api/instances") -> list[int]:
        response = site.viewer.get(path, params={"state": "quarantined", "reason": reason})
        assert 200 == response.status_code
        return [one["instanceId"] for one in response.json()["items"]]

    assert [instance["instanceId"]] == selected(instance["reason"][:10].upper())
    assert [] == selected("%")
    assert [] == selected("another reason")
    assert [] == selected(instance["reason"], "/api/results")  # received instances are no results


# --- invalid requests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs?stat=faulted",
        "/api/jobs?state=unknown",
        "/api/jobs?limit=0",
        "/api/jobs?limit=501",
        "/api/jobs?limit=1&limit=2",
        "/api/jobs?since=yesterday",
        "/api/jobs?studyInstanceUid=abc",
        "/api/jobs?submitter=%00",
        "/api/instances?state=lost",
        "/api/instances/99999999999999999999",
        "/api/instances?reason=text",
        "/api/instances?state=pending&reason=text",
        "/api/instances?state=quarantined&reason=",
        "/api/results?jobId=1",
        "/api/results?reason=text&aeTitle=LUNG",
        "/api/events?event=A;B",
        "/api/senders?aeTitle=12345678901234567",
        "/api/status?x=1",
        "/api/stories/2.25.1?patientId=1",
        f"/api/jobs/{JOB}/log?lines=-1",
    ],
)
def test_an_invalid_request_is_refused_with_problem_details(shared_api: Any, path: str) -> None:
    """An unknown parameter is refused: if it were ignored, a misspelt filter would select everything."""
    response = shared_api.operator.get(path)
    assert (400, PROBLEM, 400) == (
        response.status_code,
        response.headers["content-type"],
        response.json()["status"],
    )


def test_no_route_ignores_unknown_parameters(shared_api: Any) -> None:
    """Also those that read the request.

    Verified to fail for routes that do not declare their query.
    """
    access: Any = Access.__new__(Access)
    site: Any = type("NoSite", (), {"resources": type("NoResources", (), {"ledger": None, "clock": None})})
    handlers = admin_routes(site, access, Audits(path="", now=lambda: None))  # type: ignore[arg-type, return-value] # never called
    assert [] == [handler.paths for handler in handlers if not handler.opt.get(DECLARES_QUERY)]
    for path, body in CHANGES:
        response = shared_api.operator.post(f"{path.format(job=JOB)}?force=1", json=body)
        assert (400, "force") == (response.status_code, response.json()["errors"][0]["key"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/instances/discard", {"ids": ["1"]}),
        ("/api/instances/discard", {"ids": []}),
        ("/api/instances/discard", {"ids": [0]}),
        ("/api/instances/discard", {"ids": [1] * 1001}),
        ("/api/instances/discard", {"ids": [1], "all": True}),
        ("/api/instances/discard", [1]),
        ("/api/results/requeue", {"ids": [1], "force": "true"}),
        (f"/api/jobs/{JOB}/priority", {"priority": PLANTED}),
        ("/api/ae-titles/LUNG/end-wait", {"studyInstanceUids": "2.25.1"}),
        ("/api/studies/search", {"patientID": PLANTED}),
        ("/api/studies/search", {"patientId": [PLANTED]}),
        ("/api/studies/search", {"studyInstanceUid": PLANTED}),
        ("/api/studies/search", {"aeTitle": PLANTED}),
        ("/api/studies/search", {}),
    ],
)
def test_an_invalid_body_is_refused_without_repeating_its_values(
    shared_api: Any, path: str, body: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value may be patient data. Neither the error nor the log has it.

    Verified to fail when Litestar alone converts the body: it accepts `"1"` as a number.
    """
    response = shared_api.operator.post(path, json=body)
    assert (400, PROBLEM) == (response.status_code, response.headers["content-type"])
    captured = capsys.readouterr()
    assert PLANTED not in response.text + captured.out + captured.err


def test_unknown_paths_and_methods_are_problems(shared_api: Any) -> None:
    for method, path, status in (("GET", "/api/unknown", 404), ("PUT", "/api/jobs", 405), ("GET", "/api", 404)):
        response = shared_api.operator.request(method, path)
        assert (status, PROBLEM) == (response.status_code, response.headers["content-type"])


# --- web pages of other sites -----------------------------------------------------------------------------------------


def counts(api: Any) -> tuple[Any, ...]:
    """Return what changes could have changed."""
    return api.adapter.states, [(job.state, job.priority, job.cancel_requested) for job in api.adapter.jobs]


@pytest.mark.parametrize("headers", FOREIGN)
def test_pages_of_other_sites_change_nothing(make_api: Any, headers: dict[str, str]) -> None:
    """Even with a right token.

    Verified to fail without the check of the headers.
    """
    api = make_api(QUARANTINING)
    add_instances(api, 1, 2)
    before = counts(api)
    for path, body in CHANGES:
        assert 403 == api.operator.post(path.format(job=JOB), json=body, headers=headers).status_code
    assert (before, []) == (counts(api), api.changes())


def test_a_page_cannot_send_a_change_as_a_simple_request(make_api: Any) -> None:
    """Browsers send these types to other sites without their consent."""
    api = make_api(QUARANTINING)
    add_instances(api, 1)
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = {"Content-Type": content_type}
        response = api.operator.post("/api/instances/discard", content=b'{"ids": [1]}', headers=headers)
        assert 415 == response.status_code
    assert ({"quarantined": 1}, []) == (api.adapter.states, api.changes())


def test_no_other_site_may_read_responses(shared_api: Any) -> None:
    """There is no CORS header, and a preflight request is refused (Fetch standard, section 3.2)."""
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [
        shared_api.operator.request("OPTIONS", "/api/jobs", headers=headers),
        shared_api.operator.get("/api/jobs", headers={"Origin": "http://evil.example"}),
        shared_api.operator.get("/api/jobs"),
    ]
    assert [403, 403, 200] == [answer.status_code for answer in answers]
    assert [] == [name for answer in answers for name in answer.headers if name.startswith("access-control")]


def test_without_a_token_only_loopback_names_have_access(open_api: Any) -> None:
    """A name that the author of a web page lets resolve to 127.0.0.1 is refused (DNS rebinding)."""
    for path, body in CHANGES:
        response = open_api.operator.post(path.format(job=JOB), json=body, headers={"Host": "evil.example"})
        assert 403 == response.status_code
    assert 403 == open_api.operator.get("/api/jobs", headers={"Host": "evil.example"}).status_code
    assert 200 == open_api.operator.get("/api/jobs").status_code
