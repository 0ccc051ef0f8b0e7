"""Jobs and their metadata on the emulator's REST face."""

from __future__ import annotations

from typing import Any

import pytest

PIPELINE = 32 * "a"
NOBODY = 32 * "0"


def test_a_job_is_created_pending(face: Any) -> None:
    """The answer is 201 with the job and where it is found."""
    body = {"pipelineId": PIPELINE, "name": "ae-lung-1", "priority": "higher", "metadata": {"Source": "AE"}}
    answer = face.post("/v1/jobs", body)
    job = answer.json()
    assert 201 == answer.status_code
    assert f"/v1/jobs/{job['jobId']}" == answer.headers["location"]
    assert ("pending", "healthy", None, None) == tuple(job[k] for k in ("state", "status", "startedAt", "stoppedAt"))
    assert "2026-09-01T12:00:00.000000Z" == job["createdAt"]
    assert body == {key: job[key] for key in body}


def test_a_job_can_be_read_again(face: Any) -> None:
    """GET tells the job as it is now; with its ETag, only that nothing has changed."""
    job_id = face.new_job()["jobId"]
    first = face.client.get(f"/v1/jobs/{job_id}")
    tag = {"If-None-Match": first.headers["etag"]}
    unchanged = face.client.get(f"/v1/jobs/{job_id}", headers=tag)
    face.post(f"/v1/jobs/{job_id}:start")
    changed = face.client.get(f"/v1/jobs/{job_id}", headers=tag)
    assert [200, 304, 200] == [answer.status_code for answer in (first, unchanged, changed)]
    assert "running" == changed.json()["state"]


def test_a_job_starts_once(face: Any) -> None:
    """A second start with another key is refused, because the job is not pending."""
    job_id = face.new_job()["jobId"]
    started = face.post(f"/v1/jobs/{job_id}:start", {"variables": {"a": "b"}})
    assert (202, "running") == (started.status_code, started.json()["state"])
    assert {"a": "b"} == face.platform.jobs.status(job_id).variables
    assert (409, "job-not-pending") == face.problem(face.post(f"/v1/jobs/{job_id}:start"))


def test_a_job_is_cancelled_as_often_as_one_likes(face: Any) -> None:
    """Cancelling needs no key, and what has stopped stays as it is."""
    job_id = face.new_job()["jobId"]
    answers = [face.client.post(f"/v1/jobs/{job_id}:cancel", json={"reason": r}) for r in ("first", "second")]
    expected = (200, "stopped", "canceled", ["first"])
    found = [(a.status_code, *(a.json()[key] for key in ("state", "status", "messages"))) for a in answers]
    assert [expected, expected] == found


def test_jobs_are_listed_in_pages(face: Any) -> None:
    """Each page tells the token of the next; the last one has none."""
    ids = [face.new_job()["jobId"] for _ in range(3)]
    first = face.client.get("/v1/jobs", params={"pageSize": 2}).json()
    second = face.client.get("/v1/jobs", params={"pageSize": 2, "pageToken": first["nextPageToken"]}).json()
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
def test_jobs_are_filtered(face: Any, query: str, expected: int) -> None:
    """Conditions of one name are alternatives, different ones must all hold."""
    face.new_job()
    face.post(f"/v1/jobs/{face.new_job()['jobId']}:start")
    assert expected == len(face.client.get(f"/v1/jobs?{query}").json()["jobs"])


@pytest.mark.parametrize(
    "query", ["state=flying", "pageSize=0", "pageSize=x", "pageToken=-1", "createdAfter=soon", "pipelineId=x"]
)
def test_a_query_that_cannot_be_read_is_refused(face: Any, query: str) -> None:
    """A filter is never ignored: the answer would be another one than was asked for."""
    assert 400 == face.problem(face.client.get(f"/v1/jobs?{query}"))[0]


def test_a_job_takes_files_of_reusable_payloads(face: Any) -> None:
    """They are copied below input/ of its own payload."""
    payload = face.post("/v1/payloads", {"metadata": {"a": "b"}}).json()
    assert ("reusable", None, {"a": "b"}) == (payload["type"], payload["jobId"], payload["metadata"])
    face.client.put(f"/v1/payloads/{payload['payloadId']}/files/model.bin", content=b"weights")
    job = face.new_job(inputPayloads=[payload["payloadId"]])
    files = face.client.get(f"/v1/payloads/{job['payloadId']}").json()["files"]
    assert [payload["payloadId"]] == job["inputPayloads"]
    assert [{"path": "input/model.bin", "size": 7, "mode": 0}] == files


def test_metadata_is_added_whole_or_not_at_all(face: Any) -> None:
    """One key that is there already, whatever its case, refuses all."""
    path = f"/v1/jobs/{face.new_job()['jobId']}/metadata"
    added = face.client.post(path, json={"metadata": {"Source": "AE"}})
    refused = face.client.post(path, json={"metadata": {"New": "1", "SOURCE": "AE"}})
    more = face.client.post(path, json={"metadata": {"Instances": "4"}})
    assert {"metadata": {"Source": "AE"}} == added.json()
    assert (409, "metadata-present") == face.problem(refused)
    assert {"metadata": {"Source": "AE", "Instances": "4"}} == more.json()


def test_one_value_is_set_as_often_as_one_likes(face: Any) -> None:
    """PUT makes the key, and replaces its value afterwards; case does not matter."""
    job_id = face.new_job()["jobId"]
    path = f"/v1/jobs/{job_id}/metadata"
    puts = [("Two%20words%2Fslash", "1"), ("Source", "AE"), ("SOURCE", "PACS")]
    statuses = [face.client.put(f"{path}/{key}", json={"value": value}).status_code for key, value in puts]
    assert [201, 201, 204] == statuses
    assert {"Two words/slash": "1", "SOURCE": "PACS"} == face.platform.jobs.status(job_id).metadata


def test_a_value_that_is_refused_leaves_the_old_one(face: Any) -> None:
    """Replacing checks before it removes."""
    job_id = face.new_job(metadata={"Source": "AE"})["jobId"]
    answer = face.client.put(f"/v1/jobs/{job_id}/metadata/Source", json={"value": 257 * "x"})
    assert (422, "metadata-invalid") == face.problem(answer)
    assert {"Source": "AE"} == face.platform.jobs.status(job_id).metadata


def test_metadata_is_removed(face: Any) -> None:
    """DELETE takes one key away, and refuses one that is not there."""
    path = f"/v1/jobs/{face.new_job(metadata={'Source': 'AE'})['jobId']}/metadata/source"
    removed = face.client.delete(path)
    assert 204 == removed.status_code
    assert (404, "metadata-not-found") == face.problem(face.client.delete(path))
