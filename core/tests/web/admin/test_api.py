"""The admin API: it shows and changes what the commands show and change, with the name of the operator."""

from __future__ import annotations

import re
from typing import Any

import pytest
from attrs import evolve
from litestar.handlers import HTTPRouteHandler

from dicom_adapter import JobState, Permanent
from dicom_adapter.ledger import jobs, lanes, senders
from dicom_adapter.ledger.senders import Sender
from dicom_adapter.testing import make_instance, make_study
from dicom_adapter.web.access.access import Access
from dicom_adapter.web.admin.api import admin_routes
from dicom_adapter.web.admin.commands import Audits
from support.results import CONFIGURATION as WITH_RESULTS
from support.results import Site, output

NAME, PID, ACCESSION, DESCRIPTION = "Planted^Patient", "PID-4711", "ACC-4711", "planted description"
PLANTED = (NAME, PID, ACCESSION, DESCRIPTION)
QUARANTINING = """
[ledger]
keep-descriptions = true
[ae-titles.A]
processor = "by-study"
settings = { required = "AdmissionID", pipeline-a = "p1" }
[ae-titles.B]
processor = "by-study"
settings = { pipeline-b = "p2" }
"""


def planted(**values: Any) -> Any:
    """Return an instance of a patient with the planted values."""
    instance = make_instance(rows=2, columns=2, patient_id=PID, **values)
    instance.PatientName, instance.AccessionNumber, instance.StudyDescription = NAME, ACCESSION, DESCRIPTION
    return instance


@pytest.fixture
def full(make_api: Any) -> Any:
    """An adapter with the quarantined instances 1 and 2 at A, the pending instance 3 at B, and no job."""
    site = make_api(QUARANTINING)
    for number in (1, 2):
        site.adapter.receive(planted(study_uid=f"2.25.{number}"), ae_title="A")
    site.adapter.receive(planted(study_uid="2.25.3"), ae_title="B", calling_ae_title="CT1")
    assert {"quarantined": 2, "pending": 1} == site.adapter.states
    return site


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_jobs(api: Any) -> Any:
    """An adapter with three submitted jobs, each of one study."""
    for number in (1, 2, 3):
        api.adapter.receive(*make_study(study_uid=f"2.25.{number}"))
        api.adapter.advance(6)
    return api


def test_jobs_are_listed_page_by_page_and_by_filters(with_jobs: Any) -> None:
    """The newest job is first. A page ends with the cursor of the next page, the last page with null."""
    ids = [job.job_id for job in reversed(with_jobs.adapter.jobs)]
    first = with_jobs.viewer.get("/api/jobs", params={"limit": 2}).json()
    second = with_jobs.viewer.get("/api/jobs", params={"limit": 2, "after": first["next"]}).json()
    assert ids == [job["jobId"] for job in first["items"] + second["items"]]
    assert None is second["next"]
    filters: list[tuple[dict[str, Any], int]] = [
        ({"state": "submitted"}, 3),
        ({"state": ["faulted", "failed"]}, 0),
        ({"studyInstanceUid": "2.25.2"}, 1),
        ({"aeTitle": "LUNG", "submitter": "memory"}, 3),
        ({"since": "2100-01-01T00:00:00Z"}, 0),
    ]
    for params, count in filters:
        assert (params, count) == (params, len(with_jobs.viewer.get("/api/jobs", params=params).json()["items"]))


@pytest.mark.parametrize("cursor", ["x", "AAAA", "am9iczo", "aW5zdGFuY2VzOjE", "am9iczo5OTk5OTk5OTk5OTk5OTk5OTk5"])
def test_a_cursor_of_another_list_is_refused(with_jobs: Any, cursor: str) -> None:
    """Verified to fail when the name of the list is not compared."""
    response = with_jobs.viewer.get("/api/jobs", params={"after": cursor})
    assert (400, "application/problem+json") == (response.status_code, response.headers["content-type"])


def test_a_job_is_shown_with_its_studies_and_events(with_jobs: Any) -> None:
    job = with_jobs.adapter.jobs[0]
    shown = with_jobs.viewer.get(f"/api/jobs/{job.job_id}").json()
    assert ("submitted", {"2.25.1": len(make_study(study_uid="2.25.1"))}) == (shown["job"]["state"], shown["studies"])
    assert "job_submitted" in [event["event"] for event in shown["events"]]
    assert 404 == with_jobs.viewer.get(f"/api/jobs/{'0' * 32}").status_code
    assert 409 == with_jobs.operator.get(f"/api/jobs/{job.job_id}/log").status_code


def test_a_job_is_retried_cancelled_and_prioritized_with_the_name_of_the_operator(api: Any) -> None:
    """Verified to fail when the name is not recorded."""
    api.adapter.platform.fail("create_job", Permanent("no such pipeline"), times=2)
    api.adapter.receive(*make_study(study_uid="2.25.1"))
    api.adapter.advance(6)
    [job] = api.adapter.jobs
    path = f"/api/jobs/{job.job_id}"
    assert JobState.FAULTED is job.state
    assert "queued" == api.operator.post(f"{path}/retry").json()["state"]
    assert 409 == api.operator.post(f"{path}/priority", json={"priority": "lower"}).status_code
    assert True is api.operator.post(f"{path}/cancel").json()["cancelRequested"]
    assert [("job_retried", "anna"), ("job_cancel_requested", "anna")] == api.changes()
    assert 404 == api.operator.post(f"/api/jobs/{'0' * 32}/cancel").status_code


def test_the_priority_of_a_waiting_job_is_changed(api: Any) -> None:
    """The first step of the job has not begun. A cancelled job is refused."""
    api.adapter.receive(*make_study(study_uid="2.25.1"))
    api.adapter.advance(6)
    waiting = evolve(api.adapter.jobs[0], job_id="f" * 32, state=JobState.QUEUED, started_at=None)
    with api.adapter.ledger.write() as transaction:
        jobs.insert(transaction, waiting, [])
    path = f"/api/jobs/{waiting.job_id}"
    assert "higher" == api.operator.post(f"{path}/priority", json={"priority": "higher"}).json()["priority"]
    assert "cancelled" == api.operator.post(f"{path}/cancel").json()["state"]
    assert 409 == api.operator.post(f"{path}/priority", json={"priority": "lower"}).status_code
    assert [("job_prioritized", "anna"), ("job_cancel_requested", "anna")] == api.changes()


# --- instances and results --------------------------------------------------------------------------------------------


def test_instances_are_listed_shown_requeued_and_discarded(full: Any) -> None:
    listed = full.viewer.get("/api/instances", params={"state": "quarantined"}).json()["items"]
    assert [2, 1] == [one["instanceId"] for one in listed]
    shown = full.viewer.get("/api/instances/1").json()
    assert ("quarantined", "A", ["instance_quarantined"]) == (
        shown["state"],
        shown["aeTitle"],
        [event["event"] for event in shown["events"]],
    )
    requeued = full.operator.post("/api/instances/requeue", json={"ids": [1, 3, 9]}).json()
    assert ([1], {"3", "9"}) == (requeued["done"], set(requeued["refused"]))
    assert {"done": [2], "refused": {}} == full.operator.post("/api/instances/discard", json={"ids": [2]}).json()
    assert [("instance_requeued", "anna"), ("instance_discarded", "anna")] == full.changes()
    assert 404 == full.viewer.get("/api/instances/99").status_code


def test_a_list_that_would_read_all_instances_is_refused(full: Any) -> None:
    """There is no index of instances by AE title alone."""
    assert 400 == full.viewer.get("/api/instances", params={"aeTitle": "A"}).status_code
    params = {"aeTitle": "A", "state": "quarantined"}
    assert 2 == len(full.viewer.get("/api/instances", params=params).json()["items"])


def test_a_file_is_downloaded_as_it_was_received(full: Any) -> None:
    """It has patient data, so a viewer gets nothing, and the download is an event."""
    response = full.operator.get("/api/instances/1/file")
    assert (200, "application/dicom") == (response.status_code, response.headers["content-type"])
    assert (b"DICM", True) == (response.content[128:132], PID.encode() in response.content)
    assert 403 == full.viewer.get("/api/instances/1/file").status_code
    assert [("instance_downloaded", "anna")] == full.changes()


def test_results_are_listed_shown_requeued_and_discarded(make_api: Any) -> None:
    api = make_api(WITH_RESULTS)
    Site(api.adapter).end_job({"a.dcm": output(1), "b.dcm": output(2, patient_id="OTHER"), "DOE^JOHN.JSON": b"{}"})
    job = api.adapter.jobs[0]
    listed = api.viewer.get("/api/results", params={"jobId": job.job_id}).json()["items"]
    assert [(4, "quarantined"), (3, "reclaimed")] == [(one["instanceId"], one["state"]) for one in listed]
    assert 1 == len(api.viewer.get(f"/api/jobs/{job.job_id}/attachments").json())
    assert {"4": True} == {
        number: "--force" in why
        for number, why in api.operator.post("/api/results/requeue", json={"ids": [4]}).json()["refused"].items()
    }
    forced = api.operator.post("/api/results/requeue", json={"ids": [4], "force": True}).json()
    assert [4] == forced["done"]
    assert "result_requeued" in [event["event"] for event in api.viewer.get("/api/results/4").json()["events"]]
    assert ("result_requeued", "anna") in api.changes()
    assert 404 == api.viewer.get("/api/results/1").status_code


# --- AE titles, senders, events, configuration ------------------------------------------------------------------------


def test_the_status_and_the_waiting_groups_are_shown(full: Any) -> None:
    """A group has its deadline."""
    with full.adapter.ledger.write() as transaction:
        for report in full.adapter.host.describe_lanes():  # as the host does every second
            lanes.save(transaction, report)
    status = full.viewer.get("/api/status").json()
    assert {"A": 2, "B": 0} == {one["aeTitle"]: one["quarantined"] for one in status["aeTitles"]}
    groups = full.viewer.get("/api/ae-titles/B/groups").json()
    assert (1, 1, True) == (groups["total"], groups["items"][0]["instances"], groups["items"][0]["until"] is not None)
    assert ["A", "B"] == [one["aeTitle"] for one in full.viewer.get("/api/ae-titles").json()]
    assert 404 == full.viewer.get("/api/ae-titles/X/groups").status_code


def test_an_ae_title_is_restarted_and_its_wait_is_ended(full: Any) -> None:
    assert 202 == full.operator.post("/api/ae-titles/B/restart").status_code
    body = {"studyInstanceUids": ["2.25.3"]}
    assert 202 == full.operator.post("/api/ae-titles/B/end-wait", json=body).status_code
    assert 409 == full.operator.post("/api/ae-titles/A/end-wait", json=body).status_code
    assert 409 == full.operator.post("/api/ae-titles/X/restart").status_code
    assert [("restart_requested", "anna"), ("wait_ended", "anna")] == full.changes()


def test_senders_and_events_are_listed_page_by_page(full: Any) -> None:
    now = full.adapter.clock.now()
    seen = {"ae_title": "B", "peer_address": "10.0.0.7", "first_at": now, "last_at": now}
    counts = {"associations": 1, "instances": 1, "refused": 0}
    with full.adapter.ledger.write() as transaction:
        ended = [Sender(calling_ae_title=name, **seen, **counts) for name in ("CT1", "MR1")]
        senders.add_associations(transaction, ended)
    first = full.viewer.get("/api/senders", params={"limit": 1}).json()
    second = full.viewer.get("/api/senders", params={"limit": 1, "after": first["next"]}).json()
    assert (["CT1"], ["MR1"], None) == (
        [one["callingAeTitle"] for one in first["items"]],
        [one["callingAeTitle"] for one in second["items"]],
        second["next"],
    )
    first = full.viewer.get("/api/events", params={"event": "instance_", "limit": 1}).json()
    second = full.viewer.get("/api/events", params={"event": "instance_", "limit": 1, "after": first["next"]}).json()
    assert [2, 1] == [one["instanceId"] for one in first["items"] + second["items"]]
    assert [] == full.viewer.get("/api/events", params={"event": "instance_", "aeTitle": "B"}).json()["items"]


def test_the_configuration_is_shown_without_secrets(api: Any) -> None:
    """Digests of secrets are not shown either."""
    from dicom_adapter.ledger import configurations
    from dicom_adapter.service.reload.take_snapshot import snapshot

    config = api.adapter.config
    settings = snapshot(config, api.adapter._plugins, "salt").to_json()
    settings["submitters"]["memory"]["token"] = '"secret 0123abcd"'
    with api.adapter.ledger.write() as transaction:
        configurations.record_start(transaction, "text", "/", settings, api.adapter.clock.now())
    shown = api.viewer.get("/api/configuration").json()
    assert ("secret", 1) == (shown["submitters"]["memory"]["token"], shown["running"]["number"])
    assert ("by-study", 11112) == (shown["aeTitles"]["LUNG"]["processor"], shown["service"]["dicom.port"])
    assert "by-study" in [one["plugin"] for one in api.viewer.get("/api/plugins").json()]


def test_without_a_known_file_nothing_is_compared_or_audited(api: Any) -> None:
    assert 409 == api.operator.post("/api/configuration/plan").status_code
    assert 409 == api.operator.post("/api/audit", json={}).status_code
    assert "never" == api.viewer.get("/api/audit").json()["state"]


# --- stories and patients ---------------------------------------------------------------------------------------------


def test_operators_look_for_patients_and_viewers_cannot(full: Any) -> None:
    for body in ({"patientId": PID}, {"accessionNumber": ACCESSION}):
        found = full.operator.post("/api/studies/search", json=body).json()
        assert (3, [PID]) == (len(found["items"]), found["items"][0]["patient"]["patientId"])
        assert 403 == full.viewer.post("/api/studies/search", json=body).status_code
    assert 1 == len(full.viewer.post("/api/studies/search", json={"studyInstanceUid": "2.25.1"}).json()["items"])
    assert 400 == full.operator.post("/api/studies/search", json={"aeTitle": "A"}).status_code


def test_a_story_is_explained(full: Any) -> None:
    story = full.viewer.get("/api/stories/2.25.1").json()
    kinds = [entry["kind"] for section in story["sections"] for entry in section["entries"]]
    assert ("study", True) == (story["kind"], "quarantined" in kinds)
    assert (404, 404) == (
        full.viewer.get("/api/stories/2.25.99").status_code,
        full.viewer.get(f"/api/stories/{'0' * 32}").status_code,
    )


def test_viewers_never_see_patient_data(full: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Every route that a viewer may read is tried. Nothing of it is logged either, also for an operator.

    Verified to fail when the story of a viewer has the patient.
    """
    full.adapter.advance(6)
    job = full.adapter.jobs[0].job_id
    bodies = [full.viewer.get(path.format(**IDS, job_id=job)).text for path, _handler in routes_of("GET")]
    bodies.append(full.viewer.post("/api/studies/search", json={"studyInstanceUid": "2.25.1"}).text)
    full.operator.post("/api/studies/search", json={"patientId": PID})
    assert [] == [(value, body) for value in PLANTED for body in bodies if value in body]
    assert PID in full.operator.get("/api/stories/2.25.1").text
    captured = capsys.readouterr()
    assert [] == [value for value in PLANTED if value in captured.out + captured.err]


# --- roles ------------------------------------------------------------------------------------------------------------

IDS = {"number": 1, "ae_title": "A", "subject": "2.25.1"}
READ_BY_VIEWERS = {"/api/studies/search"}  # requests with a body that change nothing
PUBLIC = {("POST", "/api/session")}


def routes_of(method: str) -> list[tuple[str, HTTPRouteHandler]]:
    """Return the paths of all routes of the API with this method."""
    access: Any = Access.__new__(Access)
    site: Any = type("NoSite", (), {"resources": type("NoResources", (), {"ledger": None, "clock": None})})
    handlers = admin_routes(site, access, Audits(path="", now=lambda: None))  # type: ignore[arg-type, return-value] # never called
    found = [(path, one) for one in handlers for path in one.paths if method in one.http_methods]
    return [(re.sub(r":\w+}", "}", path), one) for path, one in found]


def test_viewers_change_nothing(full: Any) -> None:
    """Every route with another method than GET is refused for a viewer, before its body is read.

    Verified to fail when a route has no role.
    """
    requests = [
        (method, path.format(**IDS, job_id="0" * 32))
        for method in ("POST", "PUT", "PATCH", "DELETE")
        for path, _handler in routes_of(method)
        if (method, path) not in PUBLIC and path not in READ_BY_VIEWERS and path != "/api/session"
    ]
    assert 12 <= len(requests)
    allowed = [
        (method, path) for method, path in requests if full.viewer.request(method, path, json={}).status_code != 403
    ]
    assert [] == allowed
    assert [] == full.changes()


def test_every_route_declares_a_role() -> None:
    """Only the sign-in is public."""
    roles = {
        (method, path): handler.opt.get("role")
        for method in ("GET", "POST", "DELETE")
        for path, handler in routes_of(method)
    }
    assert {"viewer", "operator", "public"} == set(roles.values())
    assert PUBLIC == {route for route, role in roles.items() if role == "public"}
