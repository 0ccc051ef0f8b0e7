"""Composing: all or nothing, once for each key, and what becomes of the studies then."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.flow.process.turn import Turn
from dicom_adapter.testing import make_instance, make_study
from dicom_adapter_cache import operations


def states(kept: Any) -> list[str]:
    return [job.state.value for job in kept.adapter.jobs]


def test_a_job_is_made_of_whatever_is_named(keep: Any) -> None:
    """Any mix of patients, studies, series and instances, each instance once."""
    kept = keep()
    kept.receive(*make_study(patient_id="P-1", study_uid="1.1", instances=2))
    two_series = make_study(patient_id="P-2", study_uid="1.2", series=2, instances=3)
    kept.receive(*two_series)
    kept.receive(*make_study(patient_id="P-3", study_uid="1.3", instances=5))
    series, other = two_series[0].SeriesInstanceUID, two_series[-1].SOPInstanceUID
    answer = kept.compose(
        patients=[{"patientId": "P-1"}], studies=["1.1", "1.1"], series=[series], instances=[other, other]
    )
    assert 201 == answer.status_code, answer.text
    assert (2 + 3 + 1, "pipeline-1", "CACHE") == (
        answer.json()["instances"],
        answer.json()["pipelineId"],
        answer.json()["aeTitle"],
    )


def test_a_job_carries_what_was_ordered(keep: Any) -> None:
    """Name, priority, submitter, metadata; and its state can be asked for."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1"))
    order = {"priority": "immediate", "submitter": "research", "metadata": {"Protocol": "x"}, "name": "Überblick"}
    job = kept.compose(studies=["1.1"], **order).json()
    [found] = kept.adapter.jobs
    assert ("Überblick", "immediate", "research", "x") == (
        found.name,
        found.priority.value,
        found.submitter,
        found.metadata["Protocol"],
    )
    told = kept.rest.get(f"/cache/jobs/{job['jobId']}").json()
    assert ("submitted", "research") == (told["state"], told["submitter"])
    assert [told] == kept.rest.get("/cache/jobs").json()["items"]


def test_what_is_missing_is_named_and_nothing_is_composed(keep: Any) -> None:
    """All of it at once."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1"))
    answer = kept.compose(studies=["1.1", "8.8"], series=["9.9"], patients=[{"patientId": "nobody"}])
    assert 404 == answer.status_code
    missing = {"studies": ["8.8"], "series": ["9.9"], "patients": ["nobody"]}
    assert ("urn:dicom-adapter:cache:unknown", missing) == (answer.json()["type"], answer.json()["missing"])
    assert [] == kept.adapter.jobs


def test_a_repeated_call_with_a_key_is_the_first_job(keep: Any) -> None:
    """Also when its studies are gone, after a restart, and without the index."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1"))
    first = kept.compose(key="order-1", studies=["1.1"], keep=False).json()
    assert {"reclaimed": 4} == kept.adapter.states
    assert first["jobId"] == kept.compose(key="order-1", studies=["1.1"], keep=False).json()["jobId"]
    kept.adapter.restart()
    assert first["jobId"] == kept.adapter.ask("CACHE", lambda cache: cache.find_job(first["jobId"])).job_id
    assert 1 == len(kept.adapter.jobs)


def test_a_key_cannot_be_used_for_another_order(keep: Any) -> None:
    """A client that forgot to choose a new one is told."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1"))
    kept.compose(key="order-1", studies=["1.1"])
    answer = kept.compose(key="order-1", studies=["1.1"], keep=False)
    assert (422, "urn:dicom-adapter:cache:idempotency-key-reused") == (answer.status_code, answer.json()["type"])
    assert 1 == len(kept.adapter.jobs)


def test_without_a_key_each_call_composes_a_job(keep: Any) -> None:
    """A study may be used again and again."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1"))
    ids = {kept.compose(studies=["1.1"]).json()["jobId"] for _ in range(2)}
    assert 2 == len(ids)
    assert {"pending": 4} == kept.adapter.states


def test_what_is_not_to_be_kept_goes_when_the_job_is_submitted(keep: Any) -> None:
    """Not before: the platform may be down for long."""
    kept = keep(more="[submitters.down]\ntype = 'fake'\nfail = [{ call = 'start', times = 1 }]")
    kept.receive(*make_study(study_uid="1.1"))
    kept.compose(studies=["1.1"], keep=False, submitter="down")
    assert (["1.1"], ["uploaded"]) == (kept.study_uids(), states(kept))
    kept.adapter.advance(60)
    assert ([], ["submitted"], {"reclaimed": 4}) == (kept.study_uids(), states(kept), kept.adapter.states)


def test_a_clean_up_that_did_not_count_is_made_up_for(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the host is killed between the index and the ledger. Tried: a job that is finished in the same turn."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1", instances=2))
    commit, turns = Turn.commit, []

    def fail_once(turn: Turn, *arguments: Any) -> Any:
        turns.append(turn)
        if len(turns) == 2:  # the first one composes
            raise LedgerUnavailable("disk I/O error")
        return commit(turn, *arguments)

    monkeypatch.setattr(Turn, "commit", fail_once)
    job = kept.compose(studies=["1.1"], keep=False).json()
    kept.adapter.advance(10)
    assert "submitted" == kept.rest.get(f"/cache/jobs/{job['jobId']}").json()["state"]
    assert ([], 3) == (kept.study_uids(), len(turns))


def test_a_cancelled_job_gives_its_studies_back(keep: Any) -> None:
    """They were never submitted."""
    from dicom_adapter.flow.submit import operators

    kept = keep(more="[submitters.down]\ntype = 'fake'\nfail = [{ call = 'create', kind = 'permanent' }]")
    kept.receive(*make_study(study_uid="1.1"))
    job = kept.compose(studies=["1.1"], keep=False, submitter="down").json()
    assert ["faulted"] == states(kept)
    operators.cancel(kept.adapter.ledger, kept.adapter.clock, job["jobId"])
    kept.adapter.advance(60)
    assert (["1.1"], {"pending": 4}) == (kept.study_uids(), kept.adapter.states)


def test_what_arrives_for_a_study_in_use_is_part_of_the_next_job(keep: Any) -> None:
    """It is not in the first, and does not go with it."""
    kept = keep(more="[submitters.down]\ntype = 'fake'\nfail = [{ call = 'start', times = 1 }]")
    kept.receive(*make_study(study_uid="1.1", instances=3))
    kept.compose(studies=["1.1"], keep=False, submitter="down")
    kept.receive(make_instance(study_uid="1.1"), settled=False)
    kept.adapter.advance(60)
    assert [3] == [job.instance_count for job in kept.adapter.jobs]
    assert 1 == kept.compose(studies=["1.1"]).json()["instances"]


def test_a_study_that_still_arrives_is_refused_unless_the_caller_insists(keep: Any) -> None:
    """`settle` seconds after its last instance it is whole."""
    kept = keep("settle = 30")
    kept.receive(*make_study(study_uid="1.1"), settled=False)
    answer = kept.compose(studies=["1.1"])
    assert (409, "urn:dicom-adapter:cache:still-arriving", ["1.1"]) == (
        answer.status_code,
        answer.json()["type"],
        answer.json()["studies"],
    )
    assert 201 == kept.compose(studies=["1.1"], insist=True).status_code
    kept.adapter.advance(30)
    assert 201 == kept.compose(studies=["1.1"]).status_code


@pytest.mark.parametrize(
    ("order", "status", "named"),
    [
        ({}, 400, "selection is empty"),
        ({"studies": []}, 400, "selection is empty"),
        ({"studies": ["1.1"], "pipeline": "unknown"}, 400, "there is no pipeline 'unknown' (there are: lung)"),
        ({"studies": ["1.1"], "submitter": "nowhere"}, 409, "there is no submitter 'nowhere'"),
        ({"studies": ["1.1"], "priority": "urgent"}, 400, "priority"),
        ({"studies": ["1.1"], "metadata": {"Source": "me"}}, 400, "Source"),
        ({"studies": ["1.1"], "name": "a\x00b"}, 400, "name"),
        ({"studies": ["1.1"], "name": ""}, 400, "name"),
        ({"studies": ["1.1"], "keeep": True}, 400, "keeep"),
        ({"studies": ["../../etc/passwd"]}, 400, "studies"),
        ({"studies": ["1.1"], "aeTitle": "LUNG"}, 404, "does not serve AE title 'LUNG'"),
    ],
)
def test_a_wrong_order_is_refused_by_name(keep: Any, order: dict[str, Any], status: int, named: str) -> None:
    """With the rule that it breaks."""
    kept = keep('pipeline-lung = "pipeline-1"')
    kept.receive(*make_study(study_uid="1.1"))
    answer = kept.compose(**order)
    assert (status, True) == (answer.status_code, named in answer.text), answer.text
    assert [] == kept.adapter.jobs


def test_what_means_something_elsewhere_means_nothing_in_an_order(keep: Any, odd: str) -> None:
    """To a database, a file system or a shell: texts are carried as they are, what is no UID is refused."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1"))
    assert 201 == kept.compose(studies=["1.1"], name=odd, pipeline=odd, metadata={odd: odd}).status_code
    [job] = kept.adapter.jobs
    assert (odd, odd, odd) == (job.name, job.pipeline_id, job.metadata[odd])
    wrong = {
        "studies": ([odd], {400}),
        "series": ([odd], {400}),
        "instances": ([odd], {400}),
        "patients": ([{"patientId": odd, "issuerOfPatientId": odd}], {404}),
        "submitter": (odd, {409}),
        "aeTitle": (odd, {400, 404}),
    }
    for member, (value, statuses) in wrong.items():
        assert kept.compose(**{"studies": ["1.1"], member: value}).status_code in statuses
    assert (1, ["1.1"]) == (len(kept.adapter.jobs), kept.study_uids())


@pytest.mark.parametrize(("has_begun", "told"), [(False, "nothing has happened"), (True, "has begun this")])
def test_a_lane_that_does_not_answer_is_told(
    keep: Any, monkeypatch: pytest.MonkeyPatch, has_begun: bool, told: str
) -> None:
    """What has not begun is called off, so that it does not happen after all."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1"))
    asked: Future[Any] = Future()
    if has_begun:
        asked.set_running_or_notify_cancel()
    monkeypatch.setattr(operations, "ANSWER_S", 0.01)
    monkeypatch.setattr(kept.lanes["CACHE"], "ask", lambda _request: asked)
    answer = kept.compose(studies=["1.1"])
    assert (503, not has_begun) == (answer.status_code, asked.cancelled())
    assert told in answer.json()["detail"]


def test_a_configured_pipeline_goes_by_its_name_or_its_id(keep: Any) -> None:
    """The platform gets the id."""
    kept = keep('pipeline-lung = "pipeline-1"')
    kept.receive(*make_study(study_uid="1.1"))
    ids = [kept.compose(studies=["1.1"], pipeline=name).json()["pipelineId"] for name in ("lung", "pipeline-1")]
    assert ["pipeline-1"] * 2 == ids


def test_a_job_is_of_one_ae_title(keep: Any) -> None:
    """A selection of two is refused; one that is named, or alone has it, is meant."""
    kept = keep(more='[ae-titles.OTHER]\nprocessor = "cache"')
    kept.receive(*make_study(study_uid="1.1"))
    kept.receive(*make_study(study_uid="1.2"), ae_title="OTHER")
    answer = kept.compose(studies=["1.1", "1.2"])
    assert (409, ["CACHE", "OTHER"]) == (answer.status_code, answer.json()["aeTitles"])
    assert "OTHER" == kept.compose(studies=["1.2"]).json()["aeTitle"]
    assert 404 == kept.compose(studies=["1.2"], aeTitle="CACHE").status_code
    assert 404 == kept.compose(studies=["7.7"]).status_code


def test_a_key_finds_its_job_at_whatever_ae_title(keep: Any) -> None:
    """Although what it was made of is gone."""
    kept = keep(more='[ae-titles.OTHER]\nprocessor = "cache"')
    kept.receive(*make_study(study_uid="1.2"), ae_title="OTHER")
    first = kept.compose(key="k", studies=["1.2"], keep=False).json()
    assert [] == kept.study_uids()
    assert first["jobId"] == kept.compose(key="k", studies=["1.2"], keep=False).json()["jobId"]


def test_a_job_of_everything_there_is_is_the_one_that_is_newer(keep: Any) -> None:
    """With `overwrite-same-instance` an instance that came again is in the job once, as it came last."""
    kept = keep(more='[ae-titles.OTHER]\nprocessor = "cache"\noverwrite-same-instance = true')
    kept.receive(make_instance(study_uid="1.1", sop_uid="1.1.1", rows=4), ae_title="OTHER")
    [newer] = kept.receive(make_instance(study_uid="1.1", sop_uid="1.1.1", rows=8), ae_title="OTHER")
    assert 1 == kept.compose(studies=["1.1"]).json()["instances"]
    assert [newer.instance] == kept.adapter.instances_of(kept.adapter.jobs[0])


@pytest.mark.parametrize("more", [{}, {"Content-Length": str(2**30)}])
def test_a_body_is_limited(keep: Any, more: dict[str, str]) -> None:
    """Whoever sends a gigabyte is cut off at the first MiB, or before it when it says so."""
    kept = keep()
    answer = kept.rest.post(
        "/cache/jobs", content=iter([b" " * 2**19] * 4), headers={"Content-Type": "application/json", **more}
    )
    assert 413 == answer.status_code
