"""What goes when: deleted, too much, too old, no room; and what stays whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter.api.values import Capacity
from dicom_adapter.operations.story import make_story
from dicom_adapter.testing import make_study

DOWN = "[submitters.down]\ntype = 'fake'\nfail = [{ call = 'start', times = 3 }]"


def told(kept: Any, uid: str) -> str:
    with kept.adapter.ledger.read() as transaction:
        story = make_story(transaction, uid, kept.adapter.clock.now())
    return "\n".join(entry.text for section in story.sections for entry in section.entries)


def size_of_a_study(kept: Any) -> int:
    """Bytes of the largest: UIDs are not all of one length."""
    return max(int(study["sizeBytes"]) for study in kept.rest.get("/cache/studies").json()["items"])


@pytest.fixture
def two(keep: Any) -> Any:
    """Make a cache that has room for two studies."""
    probe = keep()
    probe.receive(*make_study(instances=2))
    size = size_of_a_study(probe)
    probe.adapter.close()
    folder = probe.adapter.config.storage.path
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    return lambda settings="", more="": keep(f"max-size = {int(size * 2.5)}\n{settings}", more)


def test_the_longest_unused_study_goes_when_there_is_too_much(two: Any) -> None:
    """A job or a download is a use; `explain` tells what went and why."""
    kept = two()
    for uid in ("1.1", "1.2"):
        kept.receive(*make_study(study_uid=uid, instances=2))
    kept.compose(studies=["1.1"])
    kept.receive(*make_study(study_uid="1.3", instances=2))
    kept.adapter.advance(10)
    assert ["1.3", "1.1"] == kept.study_uids()
    assert "2 instances were evicted" in told(kept, "1.2")
    assert "the cache holds more than max-size" in told(kept, "1.2")


def test_a_pinned_study_stays(two: Any) -> None:
    """Until it is not pinned any more."""
    kept = two()
    kept.receive(*make_study(study_uid="1.1", instances=2))
    assert {"studyInstanceUid": "1.1", "pinned": True} == kept.rest.put("/cache/studies/1.1/pin").json()
    for uid in ("1.2", "1.3"):
        kept.receive(*make_study(study_uid=uid, instances=2))
    kept.adapter.advance(10)
    assert ["1.3", "1.1"] == kept.study_uids()
    assert ["1.1"] == kept.study_uids("pinned=true")
    assert not kept.rest.delete("/cache/studies/1.1/pin").json()["pinned"]
    kept.receive(*make_study(study_uid="1.4", instances=2))
    kept.adapter.advance(10)
    assert ["1.4", "1.3"] == kept.study_uids()


def test_what_is_in_an_unfinished_job_is_not_evicted(two: Any) -> None:
    """It goes when the job is done."""
    kept = two(more=DOWN)
    kept.receive(*make_study(study_uid="1.1", instances=2))
    kept.compose(studies=["1.1"], submitter="down")
    for uid in ("1.2", "1.3"):
        kept.receive(*make_study(study_uid=uid, instances=2), settled=False)
        kept.adapter.advance(5)
    assert "1.1" in kept.study_uids()


def test_what_is_too_old_goes(keep: Any) -> None:
    """`max-age` after the last use."""
    kept = keep("max-age = 3600")
    kept.receive(*make_study(study_uid="1.1", instances=1))
    kept.receive(*make_study(study_uid="1.2", instances=1))
    kept.adapter.advance(1800)
    kept.compose(studies=["1.2"])
    kept.adapter.advance(1900)
    assert ["1.2"] == kept.study_uids()
    assert "not used for max-age = 3600 seconds" in told(kept, "1.1")
    kept.adapter.advance(1800)
    assert [] == kept.study_uids()
    assert {"reclaimed": 2} == kept.adapter.states


def test_studies_go_before_associations_are_refused(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused first, as many as it takes."""
    kept = keep()
    for uid in ("1.1", "1.2", "1.3"):
        kept.receive(*make_study(study_uid=uid, instances=1))
    size = size_of_a_study(kept)
    monkeypatch.setattr(kept.adapter.storage, "capacity", lambda: Capacity(total_bytes=1, free_bytes=0))
    storage = evolve(kept.adapter.config.storage, reserve=size + 1)
    monkeypatch.setattr(kept.adapter.host, "_config", evolve(kept.adapter.config, storage=storage))
    kept.adapter.advance(10)
    assert ["1.3"] == kept.study_uids()
    assert "storage is nearly full" in told(kept, "1.1")


def test_a_deleted_study_is_submitted_all_the_same(keep: Any) -> None:
    """Its instances stay until the job is done, and nobody finds the study any more."""
    kept = keep(more=DOWN)
    kept.receive(*make_study(study_uid="1.1", instances=2))
    kept.compose(studies=["1.1"], submitter="down")
    assert 204 == kept.rest.delete("/cache/studies/1.1").status_code
    assert ([], {"released": 2}) == (kept.study_uids(), kept.adapter.states)
    assert 404 == kept.rest.delete("/cache/studies/1.1").status_code
    kept.adapter.advance(600)
    assert (["submitted"], {"reclaimed": 2}) == (
        [job.state.value for job in kept.adapter.jobs],
        kept.adapter.states,
    )
    assert "2 instances were deleted" in told(kept, "1.1")


def test_the_index_comes_back_when_it_is_lost(keep: Any) -> None:
    """From the instances that are delivered again; so it does when its file is broken."""
    kept = keep()
    kept.receive(*make_study(study_uid="1.1", series=2, patient_name="A^B"))
    before = kept.rest.get("/cache/studies").json()
    [index] = Path(kept.adapter.config.storage.path, "processors").glob("*/index.sqlite")
    for content in (None, b"no database " * 1000):
        kept.adapter.close()
        for file in index.parent.iterdir():
            file.unlink()
        if content is not None:
            index.write_bytes(content)
        kept.adapter.restart()
        kept.adapter.advance(1)
        assert before == kept.rest.get("/cache/studies").json()


def test_what_the_ledger_has_no_more_is_forgotten_at_the_start(keep: Any) -> None:
    """A turn whose index was written and whose ledger was not, or the other way round, leaves no ghost."""
    from dicom_adapter_cache.database import Database
    from dicom_adapter_cache.index import Index, KeptJob

    kept = keep()
    kept.receive(*make_study(study_uid="1.1", instances=2))
    kept.compose(studies=["1.1"])
    handle = kept.adapter.host.handles["CACHE"]
    database = Database(handle.settings.index_location(handle.data_folder), writes=True)
    job = KeptJob(job_id="f" * 32, keep=False, fingerprint="", finished=False)
    Index(database, "CACHE").add_job(job, [1, 2], kept.adapter.clock.now())
    database.close()
    kept.adapter.restart()
    assert 1 == len(kept.rest.get("/cache/jobs").json()["items"])
    kept.rest.delete("/cache/studies/1.1")
    assert {"reclaimed": 2} == kept.adapter.states


def test_a_restart_cleans_up_after_what_was_submitted_meanwhile(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the host is killed between submission and clean-up."""
    from dicom_adapter_cache.processor import CacheProcessor

    kept = keep()
    kept.receive(*make_study(study_uid="1.1", instances=2))
    with monkeypatch.context() as patch:
        patch.setattr(CacheProcessor, "job_changed", lambda *_: None)
        kept.compose(studies=["1.1"], keep=False)
    assert {"pending": 2} == kept.adapter.states
    kept.adapter.restart()
    kept.adapter.advance(1)
    assert ([], {"reclaimed": 2}) == (kept.study_uids(), kept.adapter.states)
    assert 1 == len(kept.adapter.jobs)


def test_an_index_that_cannot_be_written_costs_no_instance(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane waits, as it does for the ledger; nothing is quarantined."""
    from dicom_adapter import Retriable
    from dicom_adapter_cache.index import Index

    kept = keep()
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> None:
            raise Retriable("the disk is full")

        patch.setattr(Index, "add", fail)
        kept.receive(*make_study(study_uid="1.1", instances=2))
        kept.adapter.advance(600)
        assert ({"pending": 2}, "running") == (kept.adapter.states, kept.adapter.lanes["CACHE"].state.value)
    kept.adapter.advance(10)
    assert ["1.1"] == kept.study_uids()
