"""Idempotency keys in the emulator's REST API."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter_clara_client.emulator.rest_problems import ProblemAnswer
from dicom_adapter_clara_client.emulator.rest_reply import Reply
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform

PIPELINE = 32 * "a"


@pytest.mark.parametrize("key", [None, "", "unquoted", '""', '"a"b"'])
def test_a_key_is_required(emulator: Any, key: str | None) -> None:
    """A creation without a quoted key is refused."""
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = emulator.client.post("/v1/jobs", json={"pipelineId": PIPELINE, "name": "a"}, headers=headers)
    assert (400, "idempotency-key-missing") == emulator.problem(answer)
    assert () == emulator.platform.jobs.list()


def test_the_same_key_and_body_have_the_same_response(emulator: Any) -> None:
    """One job is created, and the first response is returned again, even if the order of members or the job changed."""
    body = {"pipelineId": PIPELINE, "name": "a"}
    first = emulator.post("/v1/jobs", body, key="k")
    emulator.post(f"/v1/jobs/{first.json()['jobId']}:start")
    again = emulator.post("/v1/jobs", dict(reversed(body.items())), key="k")
    assert (201, first.json(), first.headers["location"]) == (
        again.status_code,
        again.json(),
        again.headers["location"],
    )
    assert 1 == len(emulator.platform.jobs.list())


def test_a_repeated_start_with_its_key_succeeds(emulator: Any) -> None:
    """The second response is the same as the first."""
    job_id = emulator.new_job()["jobId"]
    answers = [emulator.post(f"/v1/jobs/{job_id}:start", key="s") for _ in range(2)]
    assert [202, 202] == [answer.status_code for answer in answers]


@pytest.mark.parametrize(
    "other", [{"pipelineId": PIPELINE, "name": "b"}, {"pipelineId": PIPELINE, "name": "a", "x": 1}]
)
def test_a_key_belongs_to_one_body(emulator: Any, other: dict[str, Any]) -> None:
    """The key is refused with another body, and no job is created."""
    emulator.post("/v1/jobs", {"pipelineId": PIPELINE, "name": "a"}, key="k")
    assert (422, "idempotency-key-reused") == emulator.problem(emulator.post("/v1/jobs", other, key="k"))
    assert 1 == len(emulator.platform.jobs.list())


def test_a_key_belongs_to_one_path(emulator: Any) -> None:
    """A start with the key of the creation is refused."""
    body = {"pipelineId": PIPELINE, "name": "a"}
    job_id = emulator.post("/v1/jobs", body, key="k").json()["jobId"]
    assert (422, "idempotency-key-reused") == emulator.problem(emulator.post(f"/v1/jobs/{job_id}:start", body, key="k"))


def test_a_key_is_kept_for_a_day(emulator: Any) -> None:
    """After 24 hours the key can be used again."""
    body = {"pipelineId": PIPELINE, "name": "a"}
    ids = []
    for hours in (0, 23.9, 0.2):
        emulator.now += timedelta(hours=hours)
        ids.append(emulator.post("/v1/jobs", body, key="k").json()["jobId"])
    assert ids[0] == ids[1] != ids[2]


def test_a_refusal_is_not_kept(emulator: Any) -> None:
    """A repeated request is performed again, so that it succeeds when an operator has corrected the cause."""
    body = {"pipelineId": "b" * 32, "name": "a"}
    refused = emulator.post("/v1/jobs", body, key="k")
    definition = [{"path": "pipeline.yaml", "content": "name: lung"}]
    body["pipelineId"] = emulator.client.post("/v1/pipelines", json={"files": definition}).json()["pipelineId"]
    assert (422, "pipeline-not-found") == emulator.problem(refused)
    assert 201 == emulator.post("/v1/jobs", body, key="k").status_code


def test_a_key_is_refused_while_its_request_is_in_progress() -> None:
    """A second request gets 409 with Retry-After, whatever its body; later requests get the response."""
    keys = EmulatedPlatform().keys
    met: list[str] = []

    def act() -> Reply:
        for fingerprint in ("same", "other"):
            with pytest.raises(ProblemAnswer) as raised:
                keys.answer("k", fingerprint, Reply)
            met.append(raised.value.name)
        return Reply(status=201)

    answers = [keys.answer("k", "same", act) for _ in range(2)]
    assert ["request-in-progress"] * 2 == met
    assert [201, 201] == [answer.status for answer in answers]


def test_a_key_whose_request_failed_can_be_used_again() -> None:
    """The failure may even be a bug."""
    keys = EmulatedPlatform().keys
    with pytest.raises(ZeroDivisionError):
        keys.answer("k", "same", lambda: Reply(status=1 // 0))
    assert 201 == keys.answer("k", "other", lambda: Reply(status=201)).status


def test_keys_survive_the_process(tmp_path: Path) -> None:
    """Any key and its response are stored for a day, then deleted."""
    now = datetime(2026, 9, 1, tzinfo=timezone.utc)
    reply = Reply(status=201, body={"jobId": 32 * "b", "metadata": {"a": "ä"}}, headers={"Location": "/v1/jobs/b"})
    key = "../" + 200 * "k"
    EmulatedPlatform(folder=tmp_path, clock=lambda: now).keys.answer(key, "same", lambda: reply)
    again = EmulatedPlatform(folder=tmp_path, clock=lambda: now + timedelta(hours=23))
    assert reply == again.keys.answer(key, "same", lambda: Reply(status=1 // 0))
    with pytest.raises(ProblemAnswer, match="use a new key"):
        again.keys.answer(key, "other", Reply)
    later = EmulatedPlatform(folder=tmp_path, clock=lambda: now + timedelta(hours=25)).keys
    with pytest.raises(ZeroDivisionError):
        later.answer(key, "same", lambda: Reply(status=1 // 0))
    assert [] == list((tmp_path / "keys").iterdir())
