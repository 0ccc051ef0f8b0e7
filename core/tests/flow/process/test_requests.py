"""What others ask of a processor is a turn like any other, and never the processor's failure."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from attrs import evolve
from pydicom.dataset import Dataset

from dicom_adapter import InstanceStorageInfo as Instance
from dicom_adapter import Job, JobPriority, JobProcessorBase, JobState, NoSettings, Refused, Retriable, hookimpl
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.values import Capacity
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.process.requests import Requests
from dicom_adapter.flow.process.turn import Turn
from dicom_adapter.flow.reclaim.watermark import bytes_to_free
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.operations.story import make_story
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter, Plugin

CONFIGURATION = """
default-submitter = "clara"
[submitters.clara]
type = "memory"
[submitters.research]
type = "memory"
[ae-titles.A]
processor = "keeper"
"""
JOB_ID = "0123456789abcdef" * 2


class Keeper(JobProcessorBase[NoSettings]):
    """Keeps what it is given until it is asked."""

    name = "keeper"
    built = 0

    def open(self) -> None:
        type(self).built += 1
        self.opened_at = self.now()
        self.kept: list[Instance] = []
        self.heard: list[JobState] = []
        self.wanted: list[int] = []

    def handle_instance(self, instance: Instance) -> None:
        self.kept.append(instance)

    def job_changed(self, job: Job) -> None:
        self.heard.append(job.state)

    def free_space(self, wanted_bytes: int) -> None:
        self.wanted.append(wanted_bytes)

    def compose(self, **more: Any) -> Job:
        job = self.submit_pipeline_job("job", "pipeline-1", JobPriority.NORMAL, self.kept, **more)
        self.remove_instances(self.kept)
        self.kept = []
        return job


@pytest.fixture
def adapter(make_adapter: Callable[..., Adapter]) -> Adapter:
    class Brought:
        @hookimpl
        def dicom_adapter_processors(self) -> list[type[Keeper]]:
            return [Keeper]

    Keeper.built = 0
    return make_adapter(CONFIGURATION, Plugin(Brought()))


def receive(adapter: Adapter, count: int = 1) -> None:
    adapter.receive(*(make_instance(rows=2, columns=2) for _ in range(count)), ae_title="A")


def arrive(adapter: Adapter, instance: Dataset) -> None:
    """Let it be stored, and nobody told yet."""
    adapter._store.keep(make_request(instance, "A", "SCU", "0" * 32), encode(instance))


def compose(processor: Keeper) -> Job:
    return processor.compose()


def test_what_a_request_asks_for_is_committed_before_it_is_answered(adapter: Adapter) -> None:
    """The answer is the job as it stands in the ledger, with the time of the request."""
    receive(adapter, 2)
    adapter.advance(60)
    job = adapter.ask("A", compose)
    assert [job.job_id] == [each.job_id for each in adapter.jobs]
    assert adapter.clock.now() == job.created_at
    assert {"reclaimed": 2} == adapter.states


def test_a_refused_request_changes_nothing_and_the_processor_lives_on(adapter: Adapter) -> None:
    """Whoever asked is told; nothing that was asked for before has happened."""
    receive(adapter)

    def refuse(processor: Keeper) -> None:
        processor.remove_instances(processor.kept)
        raise Refused("not today")

    with pytest.raises(Refused, match="not today"):
        adapter.ask("A", refuse)
    assert (1, {"pending": 1}) == (Keeper.built, adapter.states)


def test_an_unexpected_error_is_whoever_asked_to_see_and_logged(
    adapter: Adapter, capsys: pytest.CaptureFixture[str]
) -> None:
    """By kind and place; the lane goes on with the same processor."""
    for failure in (KeyError("PID-4711"), SystemExit()):

        def fail(_processor: Keeper, failure: BaseException = failure) -> None:
            raise failure

        with pytest.raises(type(failure)):
            adapter.ask("A", fail)
    assert (1, LaneState.RUNNING) == (Keeper.built, adapter.lanes["A"].state)
    said = capsys.readouterr().out
    assert (2, 0) == (said.count("request_failed"), said.count("PID-4711"))


def test_a_request_comes_after_what_was_received_before(adapter: Adapter) -> None:
    """Nobody has told the lane yet that something arrived."""
    arrive(adapter, make_instance(rows=2, columns=2))
    assert 1 == adapter.ask("A", lambda processor: len(processor.kept))


def test_a_request_that_could_not_be_committed_may_be_made_again(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger failed: nothing happened, another processor is built, and knows what the ledger knows."""
    receive(adapter)

    def fail(*_: Any) -> None:
        raise LedgerUnavailable("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Turn, "commit", fail)
        with pytest.raises(Retriable):
            adapter.ask("A", compose)
    adapter.advance(1)
    assert 1 == adapter.ask("A", compose).instance_count
    assert (2, 1) == (Keeper.built, len(adapter.jobs))


def test_a_processor_that_knows_what_the_ledger_does_not_is_built_anew(adapter: Adapter) -> None:
    """A commit that is refused is told, and the next request is asked of one that knows."""
    receive(adapter)
    kept = adapter.ask("A", lambda processor: list(processor.kept))
    adapter.ask("A", compose)

    def remove_again(processor: Keeper) -> None:
        processor.remove_instances(kept)

    with pytest.raises(Refused, match="not pending"):
        adapter.ask("A", remove_again)
    assert [] == adapter.ask("A", lambda processor: processor.kept)
    assert 2 == Keeper.built


def test_a_request_whose_instance_came_again_is_made_again(make_adapter: Callable[..., Adapter]) -> None:
    """With `overwrite-same-instance` the newer arrival counts, also for whoever asked before the lane had seen it."""

    class Brought:
        @hookimpl
        def dicom_adapter_processors(self) -> list[type[Keeper]]:
            return [Keeper]

    adapter = make_adapter(CONFIGURATION + "overwrite-same-instance = true\n", Plugin(Brought()))
    instance = make_instance(rows=2, columns=2)
    adapter.receive(instance, ae_title="A")
    asked: list[int] = []

    def compose_while_it_comes_again(processor: Keeper) -> Job:
        asked.append(len(processor.kept))
        if len(asked) == 1:
            arrive(adapter, instance)
        return processor.compose()

    assert 1 == adapter.ask("A", compose_while_it_comes_again).instance_count
    assert ([1, 1], 1) == (asked, len(adapter.jobs))


def test_a_stopped_lane_refuses_requests_with_the_reason(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for an operator."""
    monkeypatch.setattr(Keeper, "open", lambda _self: 1 / 0)
    adapter.restart()
    adapter.advance(60)
    with pytest.raises(Refused, match="AE title 'A' is stopped: its processor failed"):
        adapter.ask("A", compose)


def test_requests_end_with_the_service(adapter: Adapter) -> None:
    """What waits is told that nothing has happened, and so is who comes later."""
    handle = adapter.host.handles["A"]
    early: Future[Job] = handle.ask(compose)
    adapter.host.close()
    late: Future[Job] = handle.ask(compose)
    for future in (early, late):
        with pytest.raises(Retriable, match="the service is stopping"):
            future.result(0)


def test_a_request_that_nobody_waits_for_any_more_is_not_made(adapter: Adapter) -> None:
    """Such as one of a client that has gone."""
    receive(adapter)
    assert adapter.host.handles["A"].ask(compose).cancel()
    adapter.advance(1)
    assert [] == adapter.jobs


def test_who_asked_is_told_whenever_the_lane_is_closed(adapter: Adapter) -> None:
    """Between its look at a request and taking it, and while it is made and would be made again.

    Tried: taking what is no longer there raises; what is put back to a closed lane is never answered.
    """
    looked_at, taken = Requests("A", adapter.clock), Requests("A", adapter.clock)
    futures = [looked_at.add(lambda _processor: None), taken.add(lambda _processor: None)]
    assert looked_at.first() is not None
    request = taken.pop()
    assert request is not None
    for requests in (looked_at, taken):
        requests.close()
    assert looked_at.pop() is None
    taken.put_back(request)
    assert [Retriable, Retriable] == [type(future.exception(0)) for future in futures]


def test_a_request_cannot_be_cancelled_while_it_is_made(adapter: Adapter) -> None:
    """Whoever is told that it was may rely on that nothing has happened."""
    receive(adapter)
    cancelled: list[bool] = []

    def ask(processor: Any) -> Job:
        cancelled.append(future.cancel())
        return compose(processor)

    future = adapter.host.handles["A"].ask(ask)
    adapter.advance(1)
    assert ([False], 1) == (cancelled, len(adapter.jobs))
    assert "job" == future.result(0).name


def test_a_job_may_name_its_submitter_and_its_id(adapter: Adapter) -> None:
    """The id keeps it from being submitted twice; a submitter that is not there is refused."""
    receive(adapter)
    with pytest.raises(Refused, match=r"no submitter 'nowhere' \(there are: clara, research\)"):
        adapter.ask("A", lambda processor: processor.compose(submitter="nowhere"))
    with pytest.raises(Refused, match="32 lower-case hexadecimal digits"):
        adapter.ask("A", lambda processor: processor.compose(job_id="../etc"))
    job = adapter.ask("A", lambda processor: processor.compose(submitter="research", job_id=JOB_ID))
    assert (JOB_ID, "research") == (job.job_id, job.submitter)
    receive(adapter)
    with pytest.raises(Refused, match=f"job {JOB_ID} exists already"):
        adapter.ask("A", lambda processor: processor.compose(job_id=JOB_ID))
    assert (1, {"pending": 1, "reclaimed": 1}) == (len(adapter.jobs), adapter.states)


def test_a_processor_finds_its_jobs_and_hears_of_their_states(adapter: Adapter) -> None:
    """Of its own AE title's; in turns of their own."""
    receive(adapter)
    job = adapter.ask("A", compose)
    found = adapter.ask("A", lambda processor: processor.find_job(job.job_id))
    assert (JobState.SUBMITTED, None) == (found and found.state, adapter.host.handles["A"].find_job(JOB_ID))
    heard = adapter.ask("A", lambda processor: processor.heard)
    assert [JobState.CREATED, JobState.METADATA_SENT, JobState.UPLOADED, JobState.SUBMITTED] == heard


def test_a_notice_that_fails_is_the_processors_failure(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asked for it: the processor is built anew, as after any turn that raised."""
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "job_changed", lambda *_: 1 / 0)
        receive(adapter)
        adapter.ask("A", compose)
    adapter.advance(60)
    assert 2 <= Keeper.built
    assert LaneState.RUNNING is adapter.lanes["A"].state


def test_what_a_processor_records_is_told_by_explain(adapter: Adapter) -> None:
    """With what it has to say of the instances, and why."""
    receive(adapter)

    def evict(processor: Keeper) -> str:
        processor.record("evicted", processor.kept, "there was no room")
        processor.remove_instances(processor.kept)
        return processor.kept[0].study_instance_uid

    study = adapter.ask("A", evict)
    with adapter.ledger.read() as transaction:
        story = make_story(transaction, study, adapter.clock.now())
    assert "1 instance was evicted: there was no room." in [
        entry.text for section in story.sections for entry in section.entries
    ]


def test_processors_are_asked_for_room_before_associations_are_refused(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again as long as it is short."""
    monkeypatch.setattr(adapter.storage, "capacity", lambda: Capacity(total_bytes=1000, free_bytes=160))
    with_limits = {"watermark_percent": 85, "reserve": 0}
    adapter.host._config = evolve(adapter.config, storage=evolve(adapter.config.storage, **with_limits))
    adapter.advance(20)
    assert [10, 10] == adapter.ask("A", lambda processor: processor.wanted)


@pytest.mark.parametrize(
    ("free", "watermark", "reserve", "wanted"),
    [(171, 85, 0, 0), (160, 85, 0, 10), (120, 100, 100, 0), (100, 100, 100, 20), (0, 100, 0, 0), (50, 85, 300, 270)],
)
def test_room_is_wanted_before_it_is_used_up(
    adapter: Adapter, free: int, watermark: int, reserve: int, wanted: int
) -> None:
    """Two hundredths before the watermark or the reserve, whichever comes first."""
    storage = evolve(adapter.config.storage, watermark_percent=watermark, reserve=reserve)
    assert wanted == bytes_to_free(Capacity(total_bytes=1000, free_bytes=free), storage)
    assert 0 == bytes_to_free(None, storage)


def test_now_tells_when_the_processor_was_opened(adapter: Adapter) -> None:
    """So that timers can be set there."""
    assert adapter.lanes["A"].since == adapter.ask("A", lambda processor: processor.opened_at)


def test_a_processor_that_lacks_what_it_needs_makes_its_lane_wait(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Retriable`, wherever it is raised, costs neither an instance nor the lane."""

    def fail(*_: Any) -> None:
        raise Retriable("the database of the processor is away")

    for method in ("handle_instance", "open", "job_changed"):
        with monkeypatch.context() as patch:
            patch.setattr(Keeper, method, fail)
            adapter.restart()
            receive(adapter)
            adapter.advance(600)
            assert LaneState.RUNNING is adapter.lanes["A"].state
            assert {"pending"} == adapter.states.keys()
        adapter.advance(1)
    assert 3 == adapter.ask("A", compose).instance_count
