"""Reclaim on a simulated clock: instances that no job needs are deleted, and the others are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter import InstanceStorageInfo, JobState, Permanent, Retriable, hookimpl
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.reclaim import reclaim
from dicom_adapter.ledger import instances, jobs
from dicom_adapter.testing import Adapter, Plugin

MakeAdapter = Callable[..., Adapter]

WAIT_S = 5  # timeout of the processor, after which a group becomes jobs
THREE_PIPELINES = """
[ae-titles.LUNG]
processor = "by-study"
overwrite-same-instance = true
[ae-titles.LUNG.settings]
pipeline-one = "p1"
pipeline-two = "p2"
pipeline-three = "p3"
"""


def stored(adapter: Adapter) -> int:
    return len(list(adapter.storage.keys()))


def with_a_study(adapter: Adapter, count: int = 2) -> Adapter:
    """Receive a study and advance the clock until the study becomes three jobs."""
    study = [make_instance(seed="study", instance_number=number + 1) for number in range(count)]
    adapter.receive(*study, ae_title="LUNG")
    assert count == stored(adapter)
    adapter.advance(WAIT_S)
    return adapter


def test_instances_are_reclaimed_after_the_last_of_their_jobs(make_adapter: MakeAdapter) -> None:
    """A study has three jobs. The study is kept until all three jobs are submitted."""
    adapter = make_adapter(THREE_PIPELINES)
    adapter.platform.fail("start", Retriable("busy"), times=1, pipeline_id="p2")
    adapter.platform.fail("start", Retriable("busy"), times=2, pipeline_id="p3")
    with_a_study(adapter)
    seen = []
    for seconds in (0, 2, 4):
        adapter.advance(seconds)
        submitted = [job.pipeline_id for job in adapter.jobs if job.state is JobState.SUBMITTED]
        seen.append((submitted, stored(adapter), adapter.states))
    assert [
        (["p1"], 2, {"released": 2}),
        (["p1", "p2"], 2, {"released": 2}),
        (["p1", "p2", "p3"], 0, {"reclaimed": 2}),
    ] == seen
    reclaimed = [event.instance_id for event in adapter.events if event.event == "instance_reclaimed"]
    assert [1, 2] == reclaimed


def test_pending_instances_are_never_reclaimed(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(THREE_PIPELINES + "timeout = 300\n")
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(299)
    assert (1, {"pending": 1}) == (stored(adapter), adapter.states)
    adapter.advance(1)
    assert (0, {"reclaimed": 1}) == (stored(adapter), adapter.states)


def test_a_faulted_job_keeps_only_its_instances(make_adapter: MakeAdapter) -> None:
    """An operator may retry the job, also after a restart. Studies of submitted jobs are reclaimed."""
    adapter = make_adapter(THREE_PIPELINES)
    adapter.platform.fail("start", Permanent("refused"), pipeline_id="p2")
    with_a_study(adapter)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(WAIT_S)
    assert ["submitted", "faulted", *["submitted"] * 4] == [job.state.value for job in adapter.jobs]
    adapter.restart()
    adapter.advance(90)
    assert (2, {"released": 2, "reclaimed": 1}) == (stored(adapter), adapter.states)


def test_instances_of_a_job_that_another_process_cancels_are_reclaimed(make_adapter: MakeAdapter) -> None:
    """Nothing notifies the host of a cancelled faulted job. The host checks every minute."""
    adapter = make_adapter(THREE_PIPELINES)
    adapter.platform.fail("start", Permanent("refused"), pipeline_id="p2")
    with_a_study(adapter)
    with adapter.ledger.write() as transaction:
        (row,) = jobs.newest(transaction, 1, states=[JobState.FAULTED])
        jobs.change(transaction, row, state=JobState.CANCELLED)
    adapter.advance(60)
    assert (0, {"reclaimed": 2}) == (stored(adapter), adapter.states)


def test_a_replaced_instance_is_reclaimed_and_the_newer_one_kept(make_adapter: MakeAdapter) -> None:
    """With `overwrite-same-instance`, the older arrival is not needed."""
    adapter = make_adapter(THREE_PIPELINES + "timeout = 300\n")
    for description in ("first", "second", "third"):
        adapter.receive(make_instance(seed="same", StudyDescription=description), ae_title="LUNG")
    adapter.advance(60)
    assert (1, {"pending": 1, "reclaimed": 2}) == (stored(adapter), adapter.states)
    adapter.advance(300)
    assert (0, {"reclaimed": 3}) == (stored(adapter), adapter.states)


# --- crashes --------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """Exception that simulates the end of the process."""


def crash(*_arguments: Any) -> None:
    raise Crash


def test_instances_released_before_a_crash_are_reclaimed_after_the_start(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended after the release and before the deletion."""
    adapter = make_adapter(THREE_PIPELINES)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(adapter.storage, "delete", crash)
        with_a_study(adapter)
    assert (2, {"released": 2}) == (stored(adapter), adapter.states)
    adapter.restart()
    assert (0, {"reclaimed": 2}) == (stored(adapter), adapter.states)


def test_a_deletion_is_repeated_if_its_row_was_not_updated(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended between the deletion and the update.

    The second deletion has no effect, and the row is updated.
    """
    adapter = make_adapter(THREE_PIPELINES)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(instances, "mark_reclaimed", crash)
        with_a_study(adapter)
    assert (0, {"released": 2}) == (stored(adapter), adapter.states)
    adapter.restart()
    assert {"reclaimed": 2} == adapter.states
    assert 2 == sum(event.event == "instance_reclaimed" for event in adapter.events)


def test_a_deletion_that_failed_is_repeated_without_a_restart(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary failure of the storage must not keep objects forever. No row is updated before the deletion."""
    adapter = make_adapter(THREE_PIPELINES)

    def fail(_keys: Iterable[str]) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(adapter.storage, "delete", fail)
        with_a_study(adapter)
    assert {"released": 2} == adapter.states
    adapter.advance(60)
    assert (0, {"reclaimed": 2}) == (stored(adapter), adapter.states)


@pytest.mark.parametrize("batch", [1, 2, 500])
def test_an_object_that_cannot_be_deleted_does_not_block_others(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Other objects are deleted, in the same batch and in later ones. The log names the object, which is deleted later.

    Verified to fail when a failed batch is not deleted one by one, and when `reclaim_all` stops after a failed batch.
    """
    adapter = make_adapter(THREE_PIPELINES)
    monkeypatch.setattr(reclaim, "BATCH", batch)
    delete, stuck = adapter.storage.delete, set[str]()

    def refuse(keys: Iterable[str]) -> None:
        keys = list(keys)
        if not stuck:
            stuck.add(keys[0])  # the first object cannot be deleted
        if stuck & set(keys):
            raise PermissionError(1, "Operation not permitted")
        delete(keys)

    with monkeypatch.context() as patch, capture_logs() as logged:
        patch.setattr(adapter.storage, "delete", refuse)
        patch.setattr(adapter.host, "_add_candidates", lambda _instance_ids: None)  # so that only `reclaim_all` deletes
        with_a_study(adapter, 3)
        with suppress(PermissionError):
            adapter.advance(60)
        assert (1, {"released": 1, "reclaimed": 2}) == (stored(adapter), adapter.states)
    not_reclaimed = [entry for entry in logged if entry["event"] == "instances_not_reclaimed"]
    if batch > 1:  # if the object is alone in its batch, the error is raised, not logged
        assert [(1, 1)] == [(entry["count"], entry["first"]) for entry in not_reclaimed]
    adapter.advance(60)
    assert (0, {"reclaimed": 3}) == (stored(adapter), adapter.states)


def test_observers_are_notified_of_reclaimed_instances(make_adapter: MakeAdapter) -> None:
    """Observers are notified once, after the rows are updated."""
    notified: list[list[int]] = []

    def observe(instances: Sequence[InstanceStorageInfo]) -> None:
        notified.append([instance.instance_id for instance in instances])

    plugin = SimpleNamespace(dicom_adapter_instances_reclaimed=hookimpl(observe))
    adapter = with_a_study(make_adapter(THREE_PIPELINES, Plugin(plugin)))
    adapter.advance(120)
    assert [[1, 2]] == notified
