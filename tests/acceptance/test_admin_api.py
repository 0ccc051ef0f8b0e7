"""The admin API of the real service: a job is found and explained, an AE title restarted, a configuration applied."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, write_study
from support.command_jobs import wait_until

OPERATOR, VIEWER = "o" * 20, "v" * 20
PATIENT = "PLANTED-4711"
CONFIGURATION = (
    STORAGE
    + """
[http]
port = 0
[http.tokens.anna]
role = "operator"
secret = { env = "OPERATOR_TOKEN" }
[http.tokens.wall]
role = "viewer"
secret = { env = "VIEWER_TOKEN" }
[ae-titles.LUNG.settings]
timeout = 5
group-by = "study"
pipeline-a = "pipeline-1"
"""
)


@pytest.fixture(autouse=True)
def _tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATOR_TOKEN", OPERATOR)
    monkeypatch.setenv("VIEWER_TOKEN", VIEWER)


class Api:
    """A client of the admin API of a service."""

    def __init__(self, service: LaunchedService) -> None:
        self._port = service.wait_for("http_listening")["port"]

    def call(self, method: str, path: str, body: Any = None, *, token: str = OPERATOR) -> tuple[int, Any]:
        """Return the status and the body of the response."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/api{path}", method=method)
        request.add_header("Authorization", f"Bearer {token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def get(self, path: str, *, token: str = OPERATOR) -> Any:
        status, found = self.call("GET", path, token=token)
        assert (200, path) == (status, path)
        return found


def test_an_operator_does_over_http_what_the_commands_do(tmp_path: Path, launch_service: LaunchService) -> None:
    """An operator sees a job, restarts an AE title, applies a changed configuration, and starts an audit.

    A viewer sees the same without patient data, and cannot change anything. The event of each change has the name of
    the token.
    """
    service = launch_service(CONFIGURATION)
    service.port()
    api = Api(service)
    send(write_study(tmp_path / "a", patient_id=PATIENT), service, "LUNG")
    job_id = service.wait_for("job_submitted")["job_id"]

    assert ["LUNG"] == [one["aeTitle"] for one in api.get("/status", token=VIEWER)["aeTitles"]]
    [listed] = api.get("/jobs", token=VIEWER)["items"]
    assert (job_id, "submitted", 2) == (listed["jobId"], listed["state"], listed["instances"])
    study = listed["studyInstanceUid"]
    assert {study: 2} == api.get(f"/jobs/{job_id}", token=VIEWER)["studies"]
    status, found = api.call("POST", "/studies/search", {"patientId": PATIENT})
    assert (200, [study]) == (status, [one["studyInstanceUid"] for one in found["items"]])
    assert [PATIENT] == found["items"][0]["patient"]["patientId"]
    of_viewer = [
        api.get(path, token=VIEWER)
        for path in (f"/stories/{study}", f"/stories/{job_id}", "/instances", "/events", "/senders", "/configuration")
    ]
    assert PATIENT not in json.dumps(of_viewer)

    changes = [
        (f"/jobs/{job_id}/cancel", None),
        ("/ae-titles/LUNG/restart", None),
        ("/configuration/apply", {}),
        ("/audit", {}),
    ]
    assert [403] * 4 == [api.call("POST", path, body, token=VIEWER)[0] for path, body in changes]
    assert 409 == api.call("POST", f"/jobs/{job_id}/retry")[0]  # it is not faulted
    assert 202 == api.call("POST", "/ae-titles/LUNG/restart")[0]
    service.wait_for("lane_restarted")

    number = api.get("/configuration")["running"]["number"]
    service.configuration.write_text(CONFIGURATION.replace("timeout = 5", "timeout = 6"), encoding="utf-8")
    status, plan = api.call("POST", "/configuration/plan")
    assert (200, [], None) == (status, plan["problems"], plan["applied"])
    assert "timeout" in json.dumps(plan["plan"])
    assert 202 == api.call("POST", "/configuration/apply", {})[0]
    service.wait_for("reload_applied")
    assert number + 1 == api.get("/configuration")["running"]["number"]

    assert 202 == api.call("POST", "/audit", {"verify": True})[0]
    wait_until(lambda: api.get("/audit", token=VIEWER)["state"] != "running", "the end of the audit")
    audit = api.get("/audit", token=VIEWER)
    assert ("finished", "anna", "") == (audit["state"], audit["by"], audit["problem"])
    found = api.get("/events?limit=500")["items"]
    by = {one["event"]: one["detail"]["by"] for one in found if "by" in one["detail"]}
    assert {"restart_requested": "anna", "reload_requested": "anna", "audit_started": "anna"} == by
    assert 0 == service.stop()
    log = service.log_file.read_text(encoding="utf-8")
    assert [] == [secret for secret in (PATIENT, OPERATOR, VIEWER) if secret in log]
