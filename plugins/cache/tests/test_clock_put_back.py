"""The clock was put back while the service was stopped: the times of kept studies are in the future."""

from __future__ import annotations

from typing import Any

from dicom_adapter.testing import make_study

HOUR_S = 3600
SETTLED_S = 6


def put_back_while_stopped(site: Any, seconds: float = HOUR_S) -> None:
    with site.adapter.down():
        site.adapter.clock.advance(-seconds)


def test_pinned_studies_stay_pinned(make_cache: Any) -> None:
    """The index is compared with the ledger after all pending instances were delivered.

    Verified to fail when timers of the present run before these instances: the index is deleted and built again.
    """
    site = make_cache()
    site.receive(*make_study(study_uid="1.1", instances=2))
    site.rest.put("/cache/studies/1.1/pin")
    put_back_while_stopped(site)
    assert ["1.1"] == site.study_uids("pinned=true")


def test_a_study_settles_in_the_usual_time(make_cache: Any) -> None:
    """At the start, the study counts as arriving; a job can be composed `settle` later.

    Verified to fail when the time of the last arrival stays in the future: the study is still arriving an hour later.
    """
    site = make_cache()
    site.receive(*make_study(study_uid="1.1", instances=2))
    put_back_while_stopped(site)
    assert 409 == site.compose(studies=["1.1"]).status_code
    site.adapter.advance(SETTLED_S)
    assert 201 == site.compose(studies=["1.1"]).status_code
    assert [False] == [study["arriving"] for study in site.rest.get("/cache/studies").json()["items"]]


def test_a_study_that_was_not_indexed_settles_in_the_usual_time(make_cache: Any) -> None:
    """The instances arrived while the host was down, so that the index has them only after the start.

    Verified to fail when only the times of indexed studies are corrected.
    """
    site = make_cache()
    with site.adapter.down():
        site.adapter.receive(*make_study(study_uid="1.1", instances=2), ae_title="CACHE")
        site.adapter.clock.advance(-HOUR_S)
    site.adapter.advance(SETTLED_S)
    assert 201 == site.compose(studies=["1.1"]).status_code


def test_a_study_that_receives_an_instance_after_the_start_is_arriving(make_cache: Any) -> None:
    """An arrival at a time before the corrected times would be ignored.

    Verified to fail when times in the future are only ignored, and not replaced.
    """
    site = make_cache()
    first, second = make_study(study_uid="1.1", instances=2)
    site.receive(first)
    put_back_while_stopped(site)
    site.adapter.advance(SETTLED_S)
    site.receive(second, settled=False)
    assert 409 == site.compose(studies=["1.1"]).status_code


def test_a_study_is_evicted_at_its_usual_age(make_cache: Any) -> None:
    """Verified to fail when the time of the last use stays in the future: the study is kept an hour longer."""
    site = make_cache("max-age = 600")
    site.receive(*make_study(study_uid="1.1", instances=2))
    put_back_while_stopped(site)
    site.adapter.advance(600 + 60)
    assert [] == site.study_uids()
