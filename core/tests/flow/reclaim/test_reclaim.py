"""Step 6 under a virtual clock: the disk follows the work, and nothing that is still needed is deleted."""

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

WAIT_S = 5  # of the AE title's processor, before a group becomes jobs
THREE = """
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
    """A study has become three jobs at this moment."""
    study = [make_instance(seed="study", instance_number=number + 1) for number in range(count)]
    adapter.receive(*study, ae_title="LUNG")
    assert count == stored(adapter)
    adapter.advance(WAIT_S)
    return adapter


def test_instances_go_after_the_last_of_their_jobs(make_adapter: MakeAdapter) -> None:
    """Three jobs on one study: after the first and the second it stays, after the third it goes."""
    adapter = make_adapter(THREE)
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


def test_what_a_processor_holds_stays(make_adapter: MakeAdapter) -> None:
    """Pending instances are not touched, however long it takes."""
    adapter = make_adapter(THREE + "timeout = 300\n")
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(299)
    assert (1, {"pending": 1}) == (stored(adapter), adapter.states)
    adapter.advance(1)
    assert (0, {"reclaimed": 1}) == (stored(adapter), adapter.states)


def test_a_faulted_job_keeps_its_instances_and_only_its_own(make_adapter: MakeAdapter) -> None:
    """An operator may retry it, after a restart too; studies whose jobs were submitted go."""
    adapter = make_adapter(THREE)
    adapter.platform.fail("start", Permanent("refused"), pipeline_id="p2")
    with_a_study(adapter)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(WAIT_S)
    assert ["submitted", "faulted", *["submitted"] * 4] == [job.state.value for job in adapter.jobs]
    adapter.restart()
    adapter.advance(90)
    assert (2, {"released": 2, "reclaimed": 1}) == (stored(adapter), adapter.states)


def test_what_another_process_released_goes_without_a_restart(make_adapter: MakeAdapter) -> None:
    """An operator cancels the faulted job, or a receiver replaces an instance: the host looks every minute."""
    adapter = make_adapter(THREE)
    adapter.platform.fail("start", Permanent("refused"), pipeline_id="p2")
    with_a_study(adapter)
    with adapter.ledger.write() as transaction:
        (row,) = jobs.newest(transaction, 1, states=[JobState.FAULTED])
        jobs.change(transaction, row, state=JobState.CANCELLED)
    adapter.advance(60)
    assert (0, {"reclaimed": 2}) == (stored(adapter), adapter.states)


def test_a_replaced_instance_goes_and_the_newer_one_stays(make_adapter: MakeAdapter) -> None:
    """With `overwrite-same-instance` the older arrival is needed by nobody."""
    adapter = make_adapter(THREE + "timeout = 300\n")
    for description in ("first", "second", "third"):
        adapter.receive(make_instance(seed="same", StudyDescription=description), ae_title="LUNG")
    adapter.advance(60)
    assert (1, {"pending": 1, "reclaimed": 2}) == (stored(adapter), adapter.states)
    adapter.advance(300)
    assert (0, {"reclaimed": 3}) == (stored(adapter), adapter.states)


# --- crashes --------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


def crash(*_arguments: Any) -> None:
    raise Crash


def test_what_an_earlier_process_left_goes_after_the_start(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended after the release and before the deletion."""
    adapter = make_adapter(THREE)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(adapter.storage, "delete", crash)
        with_a_study(adapter)
    assert (2, {"released": 2}) == (stored(adapter), adapter.states)
    adapter.restart()
    assert (0, {"reclaimed": 2}) == (stored(adapter), adapter.states)


def test_a_deletion_is_repeated_when_its_row_was_not_written(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended between the deletion and the row: deleting again does no harm, and the row follows."""
    adapter = make_adapter(THREE)
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
    """Storage that is away for a moment costs no room for good, and no row says what is not true."""
    adapter = make_adapter(THREE)

    def fail(_keys: Iterable[str]) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(adapter.storage, "delete", fail)
        with_a_study(adapter)
    assert {"released": 2} == adapter.states
    adapter.advance(60)
    assert (0, {"reclaimed": 2}) == (stored(adapter), adapter.states)


@pytest.mark.parametrize("batch", [1, 2, 500])
def test_an_object_that_cannot_be_deleted_keeps_no_other(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """The others go, in its batch and in those that follow; the log names it, and it goes when it can.

    Tried: with the batch deleted as a whole, or the sweep ended by a batch of which nothing goes, all three stay.
    """
    adapter = make_adapter(THREE)
    monkeypatch.setattr(reclaim, "BATCH", batch)
    delete, stuck = adapter.storage.delete, set[str]()

    def refuse(keys: Iterable[str]) -> None:
        keys = list(keys)
        stuck.update(keys[: not stuck])
        if stuck & set(keys):
            raise PermissionError(1, "Operation not permitted")
        delete(keys)

    with monkeypatch.context() as patch, capture_logs() as logged:
        patch.setattr(adapter.storage, "delete", refuse)
        patch.setattr(adapter.host, "_add_candidates", lambda numbers: None)  # the sweep alone has to do it
        with_a_study(adapter, 3)
        with suppress(PermissionError):
            adapter.advance(60)
        assert (1, {"released": 1, "reclaimed": 2}) == (stored(adapter), adapter.states)
    assert batch == 1 or [(1, 1)] == [
        (entry["count"], entry["first"]) for entry in logged if entry["event"] == "instances_not_reclaimed"
    ]
    adapter.advance(60)
    assert (0, {"reclaimed": 3}) == (stored(adapter), adapter.states)


def test_observers_are_told_what_was_reclaimed(make_adapter: MakeAdapter) -> None:
    """Once, after the rows were written."""
    told: list[list[int]] = []

    def observe(instances: Sequence[InstanceStorageInfo]) -> None:
        told.append([instance.instance_id for instance in instances])

    plugin = SimpleNamespace(dicom_adapter_instances_reclaimed=hookimpl(observe))
    adapter = with_a_study(make_adapter(THREE, Plugin(plugin)))
    adapter.advance(120)
    assert [[1, 2]] == told
