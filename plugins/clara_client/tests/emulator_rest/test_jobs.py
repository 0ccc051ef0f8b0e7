"""Jobs and their metadata in the emulator's REST API."""

from __future__ import annotations

from typing import Any

import pytest

PIPELINE = 32 * "a"


def test_a_job_is_created_pending(emulator: Any) -> None:
    """The response is 201 with the job and its location."""
    body = {"pipelineId": PIPELINE, "name": "ae-lung-1", "priority": "higher", "metadata": {"Source": "AE"}}
    answer = emulator.post("/v1/jobs", body)
    job = answer.json()
    assert 201 == answer.status_code
    assert f"/v1/jobs/{job['jobId']}" == answer.headers["location"]
    assert ("pending", "healthy", None, None) == tuple(job[k] for k in ("state", "status", "startedAt", "stoppedAt"))
    assert "2026-09-01T12:00:00.000000Z" == job["createdAt"]
    assert body == {key: job[key] for key in body}


def test_a_job_can_be_read_again(emulator: Any) -> None:
    """GET returns the current job; with its ETag, only 304 if nothing has changed."""
    job_id = emulator.new_job()["jobId"]
    first = emulator.client.get(f"/v1/jobs/{job_id}")
    tag = {"If-None-Match": first.headers["etag"]}
    unchanged = emulator.client.get(f"/v1/jobs/{job_id}", headers=tag)
    emulator.post(f"/v1/jobs/{job_id}:start")
    changed = emulator.client.get(f"/v1/jobs/{job_id}", headers=tag)
    assert [200, 304, 200] == [answer.status_code for answer in (first, unchanged, changed)]
    assert "running" == changed.json()["state"]


def test_a_job_can_be_started_once(emulator: Any) -> None:
    """A second start with another key is refused, because the job is not pending."""
    job_id = emulator.new_job()["jobId"]
    started = emulator.post(f"/v1/jobs/{job_id}:start", {"variables": {"a": "b"}})
    assert (202, "running") == (started.status_code, started.json()["state"])
    assert {"a": "b"} == emulator.platform.jobs.status(job_id).variables
    assert (409, "job-not-pending") == emulator.problem(emulator.post(f"/v1/jobs/{job_id}:start"))


def test_a_job_can_be_cancelled_repeatedly(emulator: Any) -> None:
    """Cancelling needs no key; a stopped job does not change."""
    job_id = emulator.new_job()["jobId"]
    answers = [emulator.client.post(f"/v1/jobs/{job_id}:cancel", json={"reason": r}) for r in ("first", "second")]
    expected = (200, "stopped", "canceled", ["first"])
    results = [(a.status_code, *(a.json()[key] for key in ("state", "status", "messages"))) for a in answers]
    assert [expected, expected] == results


def test_jobs_are_listed_in_pages(emulator: Any) -> None:
    """Each page has the token of the next; the last page has none."""
    ids = [emulator.new_job()["jobId"] for _ in range(3)]
    first = emulator.client.get("/v1/jobs", params={"pageSize": 2}).json()
    second = emulator.client.get("/v1/jobs", params={"pageSize": 2, "pageToken": first["nextPageToken"]}).json()
    assert ids == [job["jobId"] for job in first["jobs"] + second["jobs"]]
    assert "nextPageToken" not in second


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=running", 1),
        ("state=running&state=pending", 2),
        ("status=faulted", 0),
        (f"pipelineId={PIPELINE.upper()}", 2),
        ("createdAfter=2026-09-01T11:59:59Z", 2),
        ("createdAfter=2026-09-01T12:00:00Z", 0),
        ("completedBefore=2030-01-01T00:00:00%2B01:00", 0),
    ],
)
def test_jobs_are_filtered(emulator: Any, query: str, expected: int) -> None:
    """Values of one parameter are alternatives; all parameters must match."""
    emulator.new_job()
    emulator.post(f"/v1/jobs/{emulator.new_job()['jobId']}:start")
    assert expected == len(emulator.client.get(f"/v1/jobs?{query}").json()["jobs"])


@pytest.mark.parametrize(
    "query", ["state=flying", "pageSize=0", "pageSize=x", "pageToken=-1", "createdAfter=soon", "pipelineId=x"]
)
def test_an_invalid_query_is_refused(emulator: Any, query: str) -> None:
    """An invalid filter is not ignored, because the response would be wrong."""
    assert 400 == emulator.problem(emulator.client.get(f"/v1/jobs?{query}"))[0]


def test_files_of_reusable_payloads_are_copied_into_a_job(emulator: Any) -> None:
    """The files are copied to input/ of the job's payload."""
    payload = emulator.post("/v1/payloads", {"metadata": {"a": "b"}}).json()
    assert ("reusable", None, {"a": "b"}) == (payload["type"], payload["jobId"], payload["metadata"])
    emulator.client.put(f"/v1/payloads/{payload['payloadId']}/files/model.bin", content=b"weights")
    job = emulator.new_job(inputPayloads=[payload["payloadId"]])
    files = emulator.client.get(f"/v1/payloads/{job['payloadId']}").json()["files"]
    assert [payload["payloadId"]] == job["inputPayloads"]
    assert [{"path": "input/model.bin", "size": 7, "mode": 0}] == files


def test_metadata_is_added_completely_or_not_at_all(emulator: Any) -> None:
    """If one key is present already (compared without case), no entry is added."""
    path = f"/v1/jobs/{emulator.new_job()['jobId']}/metadata"
    added = emulator.client.post(path, json={"metadata": {"Source": "AE"}})
    refused = emulator.client.post(path, json={"metadata": {"New": "1", "SOURCE": "AE"}})
    more = emulator.client.post(path, json={"metadata": {"Instances": "4"}})
    assert {"metadata": {"Source": "AE"}} == added.json()
    assert (409, "metadata-present") == emulator.problem(refused)
    assert {"metadata": {"Source": "AE", "Instances": "4"}} == more.json()


def test_a_value_can_be_replaced_repeatedly(emulator: Any) -> None:
    """PUT creates or replaces an entry; keys are compared without case."""
    job_id = emulator.new_job()["jobId"]
    path = f"/v1/jobs/{job_id}/metadata"
    puts = [("Two%20words%2Fslash", "1"), ("Source", "AE"), ("SOURCE", "PACS")]
    statuses = [emulator.client.put(f"{path}/{key}", json={"value": value}).status_code for key, value in puts]
    assert [201, 201, 204] == statuses
    assert {"Two words/slash": "1", "SOURCE": "PACS"} == emulator.platform.jobs.status(job_id).metadata


def test_a_refused_value_does_not_replace_the_old_one(emulator: Any) -> None:
    """The new value is checked before the old one is removed."""
    job_id = emulator.new_job(metadata={"Source": "AE"})["jobId"]
    answer = emulator.client.put(f"/v1/jobs/{job_id}/metadata/Source", json={"value": 257 * "x"})
    assert (422, "metadata-invalid") == emulator.problem(answer)
    assert {"Source": "AE"} == emulator.platform.jobs.status(job_id).metadata


def test_metadata_is_removed(emulator: Any) -> None:
    """DELETE removes one entry; a missing key is an error."""
    path = f"/v1/jobs/{emulator.new_job(metadata={'Source': 'AE'})['jobId']}/metadata/source"
    removed = emulator.client.delete(path)
    assert 204 == removed.status_code
    assert (404, "metadata-not-found") == emulator.problem(emulator.client.delete(path))
