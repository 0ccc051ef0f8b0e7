"""Composing jobs: all or nothing, once per idempotency key, and clean-up afterwards."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.flow.process.turn import Turn
from dicom_adapter.testing import make_instance, make_study
from dicom_adapter_cache import operations


def states(site: Any) -> list[str]:
    return [job.state.value for job in site.adapter.jobs]


def test_a_job_contains_all_named_objects(make_cache: Any) -> None:
    """An order may mix patients, studies, series and instances; the job contains each instance once."""
    site = make_cache()
    site.receive(*make_study(patient_id="P-1", study_uid="1.1", instances=2))
    two_series = make_study(patient_id="P-2", study_uid="1.2", series=2, instances=3)
    site.receive(*two_series)
    site.receive(*make_study(patient_id="P-3", study_uid="1.3", instances=5))
    series, other = two_series[0].SeriesInstanceUID, two_series[-1].SOPInstanceUID
    answer = site.compose(
        patients=[{"patientId": "P-1"}], studies=["1.1", "1.1"], series=[series], instances=[other, other]
    )
    assert 201 == answer.status_code, answer.text
    assert (2 + 3 + 1, "pipeline-1", "CACHE") == (
        answer.json()["instances"],
        answer.json()["pipelineId"],
        answer.json()["aeTitle"],
    )


def test_a_job_has_the_values_of_the_order(make_cache: Any) -> None:
    """The job has the order's name, priority, submitter and metadata; its status can be read."""
    site = make_cache()
    site.receive(*make_study(study_uid="1.1"))
    order = {"priority": "immediate", "submitter": "research", "metadata": {"Protocol": "x"}, "name": "Überblick"}
    job = site.compose(studies=["1.1"], **order).json()
    [submitted] = site.adapter.jobs
    assert ("Überblick", "immediate", "research", "x") == (
        submitted.name,
        submitted.priority.value,
        submitted.submitter,
        submitted.metadata["Protocol"],
    )
    status = site.rest.get(f"/cache/jobs/{job['jobId']}").json()
    assert ("submitted", "research") == (status["state"], status["submitter"])
    assert [status] == site.rest.get("/cache/jobs").json()["items"]


def test_an_order_with_missing_objects_is_refused(make_cache: Any) -> None:
    """The error names all missing objects, and no job is composed."""
    site = make_cache()
    site.receive(*make_study(study_uid="1.1"))
    answer = site.compose(studies=["1.1", "8.8"], series=["9.9"], patients=[{"patientId": "nobody"}])
    assert 404 == answer.status_code
    missing = {"studies": ["8.8"], "series": ["9.9"], "patients": ["nobody"]}
    assert ("urn:dicom-adapter:cache:unknown", missing) == (answer.json()["type"], answer.json()["missing"])
    assert [] == site.adapter.jobs


def test_a_repeated_call_with_a_key_returns_the_first_job(make_cache: Any) -> None:
    """The first job is returned even if its studies are deleted, and also after a restart."""
    site = make_cache()
    site.receive(*make_study(study_uid="1.1"))
    first = site.compose(key="order-1", studies=["1.1"], keep=False).json()
    assert {"reclaimed": 4} == site.adapter.states
    assert first["jobId"] == site.compose(key="order-1", studies=["1.1"], keep=False).json()["jobId"]
    site.adapter.restart()
    assert first["jobId"] == site.compose(key="order-1", studies=["1.1"], keep=False).json()["jobId"]
    assert 1 == len(site.adapter.jobs)


def test_a_key_cannot_be_used_for_another_order(make_cache: Any) -> None:
    """The error reports that the key was reused."""
    site = make_cache()
    site.receive(*make_study(study_uid="1.1"))
    site.compose(key="order-1", studies=["1.1"])
    answer = site.compose(key="order-1", studies=["1.1"], keep=False)
    assert (422, "urn:dicom-adapter:cache:idempotency-key-reused") == (answer.status_code, answer.json()["type"])
    assert 1 == len(site.adapter.jobs)


def test_each_call_without_a_key_composes_a_job(make_cache: Any) -> None:
    """A study can be used for any number of jobs."""
    site = make_cache()
    site.receive(*make_study(study_uid="1.1"))
    ids = {site.compose(studies=["1.1"]).json()["jobId"] for _ in range(2)}
    assert 2 == len(ids)
    assert {"pending": 4} == site.adapter.states


def test_instances_are_deleted_when_a_job_without_keep_is_submitted(make_cache: Any) -> None:
    """The instances are not deleted earlier, because the platform may be unavailable for a long time."""
    site = make_cache(more="[submitters.down]\ntype = 'fake'\nfail = [{ call = 'start', times = 1 }]")
    site.receive(*make_study(study_uid="1.1"))
    site.compose(studies=["1.1"], keep=False, submitter="down")
    assert (["1.1"], ["uploaded"]) == (site.study_uids(), states(site))
    site.adapter.advance(60)
    assert ([], ["submitted"], {"reclaimed": 4}) == (site.study_uids(), states(site), site.adapter.states)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ({"pipeline": "lung"}, ("pipeline-1", "second")),
        ({"pipeline": "pipeline-1"}, ("pipeline-1", "second")),
        ({"pipeline": "liver"}, ("pipeline-2", "platform")),
        ({"pipeline": "lung", "submitter": "platform"}, ("pipeline-1", "platform")),
    ],
)
def test_a_job_goes_to_the_submitter_of_its_pipeline(
    make_cache: Any, order: dict[str, str], expected: tuple[str, str]
) -> None:
    """The pipeline may be named by name or id. The submitter of the order has precedence."""
    pipelines = 'pipeline-lung = { id = "pipeline-1", submitter = "second" }\npipeline-liver = "pipeline-2"'
    site = make_cache(pipelines, more="[submitters.second]\ntype = 'memory'")
    site.receive(*make_study(study_uid="1.1"))
    site.adapter.advance(10)
    assert 201 == site.compose(studies=["1.1"], **order).status_code
    assert [expected] == [(job.pipeline_id, job.submitter) for job in site.adapter.jobs]


def test_a_clean_up_that_was_not_committed_is_repeated(make_cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger fails after the commit of the index. Verified to fail when the job is finished in the same turn."""
    site = make_cache()
    site.receive(*make_study(study_uid="1.1", instances=2))
    commit, turns = Turn.commit, []

    def fail_once(turn: Turn, *arguments: Any) -> Any:
        turns.append(turn)
        if len(turns) == 2:  # the clean-up; the first turn composes the job
            raise LedgerUnavailable("disk I/O error")
        return commit(turn, *arguments)

    monkeypatch.setattr(Turn, "commit", fail_once)
    job = site.compose(studies=["1.1"], keep=False).json()
    site.adapter.advance(10)
    assert "submitted" == site.rest.get(f"/cache/jobs/{job['jobId']}").json()["state"]
    assert ([], 3) == (site.study_uids(), len(turns))


def test_the_studies_of_a_cancelled_job_are_kept(make_cache: Any) -> None:
    """The studies are kept even with `"keep": false`, because the job was not submitted."""
    from dicom_adapter.flow.submit import operators

    site = make_cache(more="[submitters.down]\ntype = 'fake'\nfail = [{ call = 'create', kind = 'permanent' }]")
    site.receive(*make_study(study_uid="1.1"))
    job = site.compose(studies=["1.1"], keep=False, submitter="down").json()
    assert ["faulted"] == states(site)
    operators.cancel(site.adapter.ledger, site.adapter.clock, job["jobId"])
    site.adapter.advance(60)
    assert (["1.1"], {"pending": 4}) == (site.study_uids(), site.adapter.states)


def test_an_instance_that_arrives_after_composing_is_for_the_next_job(make_cache: Any) -> None:
    """The first job does not contain the instance, and its clean-up does not delete it."""
    site = make_cache(more="[submitters.down]\ntype = 'fake'\nfail = [{ call = 'start', times = 1 }]")
    site.receive(*make_study(study_uid="1.1", instances=3))
    site.compose(studies=["1.1"], keep=False, submitter="down")
    site.receive(make_instance(study_uid="1.1"), settled=False)
    site.adapter.advance(60)
    assert [3] == [job.instance_count for job in site.adapter.jobs]
    assert 1 == site.compose(studies=["1.1"]).json()["instances"]


def test_a_study_that_is_still_arriving_is_refused_without_insist(make_cache: Any) -> None:
    """A study counts as complete `settle` seconds after its last instance."""
    site = make_cache("settle = 30")
    site.receive(*make_study(study_uid="1.1"), settled=False)
    answer = site.compose(studies=["1.1"])
    assert (409, "urn:dicom-adapter:cache:still-arriving", ["1.1"]) == (
        answer.status_code,
        answer.json()["type"],
        answer.json()["studies"],
    )
    assert 201 == site.compose(studies=["1.1"], insist=True).status_code
    site.adapter.advance(30)
    assert 201 == site.compose(studies=["1.1"]).status_code


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
def test_an_invalid_order_is_refused(make_cache: Any, order: dict[str, Any], status: int, named: str) -> None:
    """The error names the value or the broken rule, and no job is composed."""
    site = make_cache('pipeline-lung = "pipeline-1"')
    site.receive(*make_study(study_uid="1.1"))
    answer = site.compose(**order)
    assert (status, True) == (answer.status_code, named in answer.text), answer.text
    assert [] == site.adapter.jobs


def test_special_texts_have_no_effect_in_an_order(make_cache: Any, special_text: str) -> None:
    """Names and metadata contain the texts unchanged; a text in place of a UID is refused."""
    site = make_cache()
    site.receive(*make_study(study_uid="1.1"))
    assert (
        201
        == site.compose(
            studies=["1.1"], name=special_text, pipeline=special_text, metadata={special_text: special_text}
        ).status_code
    )
    [job] = site.adapter.jobs
    assert (special_text, special_text, special_text) == (job.name, job.pipeline_id, job.metadata[special_text])
    wrong = {
        "studies": ([special_text], {400}),
        "series": ([special_text], {400}),
        "instances": ([special_text], {400}),
        "patients": ([{"patientId": special_text, "issuerOfPatientId": special_text}], {404}),
        "submitter": (special_text, {409}),
        "aeTitle": (special_text, {400, 404}),
    }
    for member, (value, statuses) in wrong.items():
        assert site.compose(**{"studies": ["1.1"], member: value}).status_code in statuses
    assert (1, ["1.1"]) == (len(site.adapter.jobs), site.study_uids())


@pytest.mark.parametrize(
    ("has_begun", "message"), [(False, "nothing was changed"), (True, "has not finished the request in time")]
)
def test_a_lane_that_does_not_answer_is_an_error(
    make_cache: Any, monkeypatch: pytest.MonkeyPatch, has_begun: bool, message: str
) -> None:
    """A request that has not begun is cancelled, so that it cannot take effect later."""
    site = make_cache()
    site.receive(*make_study(study_uid="1.1"))
    asked: Future[Any] = Future()
    if has_begun:
        asked.set_running_or_notify_cancel()
    monkeypatch.setattr(operations, "ANSWER_TIMEOUT_S", 0.01)
    monkeypatch.setattr(site.lanes["CACHE"], "ask", lambda _request: asked)
    answer = site.compose(studies=["1.1"])
    assert (503, not has_begun) == (answer.status_code, asked.cancelled())
    assert message in answer.json()["detail"]


def test_a_configured_pipeline_is_named_by_name_or_id(make_cache: Any) -> None:
    """The job has the id in both cases."""
    site = make_cache('pipeline-lung = "pipeline-1"')
    site.receive(*make_study(study_uid="1.1"))
    ids = [site.compose(studies=["1.1"], pipeline=name).json()["pipelineId"] for name in ("lung", "pipeline-1")]
    assert ["pipeline-1"] * 2 == ids


def test_a_job_belongs_to_one_ae_title(make_cache: Any) -> None:
    """A selection across two AE titles is refused. The AE title can be named, or is the only one with the objects."""
    site = make_cache(more='[ae-titles.OTHER]\nprocessor = "cache"')
    site.receive(*make_study(study_uid="1.1"))
    site.receive(*make_study(study_uid="1.2"), ae_title="OTHER")
    answer = site.compose(studies=["1.1", "1.2"])
    assert (409, ["CACHE", "OTHER"]) == (answer.status_code, answer.json()["aeTitles"])
    assert "OTHER" == site.compose(studies=["1.2"]).json()["aeTitle"]
    assert 404 == site.compose(studies=["1.2"], aeTitle="CACHE").status_code
    assert 404 == site.compose(studies=["7.7"]).status_code


def test_a_key_finds_its_job_at_any_ae_title(make_cache: Any) -> None:
    """The job is found even if its instances are deleted."""
    site = make_cache(more='[ae-titles.OTHER]\nprocessor = "cache"')
    site.receive(*make_study(study_uid="1.2"), ae_title="OTHER")
    first = site.compose(key="k", studies=["1.2"], keep=False).json()
    assert [] == site.study_uids()
    assert first["jobId"] == site.compose(key="k", studies=["1.2"], keep=False).json()["jobId"]


def test_a_job_contains_only_the_newer_of_two_duplicates(make_cache: Any) -> None:
    """With `overwrite-same-instance`, a duplicate replaces the older instance in the cache."""
    site = make_cache(more='[ae-titles.OTHER]\nprocessor = "cache"\noverwrite-same-instance = true')
    site.receive(make_instance(study_uid="1.1", sop_uid="1.1.1", rows=4), ae_title="OTHER")
    [newer] = site.receive(make_instance(study_uid="1.1", sop_uid="1.1.1", rows=8), ae_title="OTHER")
    assert 1 == site.compose(studies=["1.1"]).json()["instances"]
    assert [newer.instance] == site.adapter.instances_of(site.adapter.jobs[0])


@pytest.mark.parametrize("more", [{}, {"Content-Length": str(2**30)}])
def test_the_size_of_a_body_is_limited(make_cache: Any, more: dict[str, str]) -> None:
    """A larger body is refused at 1 MiB, or at once if Content-Length announces more."""
    site = make_cache()
    answer = site.rest.post(
        "/cache/jobs", content=iter([b" " * 2**19] * 4), headers={"Content-Type": "application/json", **more}
    )
    assert 413 == answer.status_code
