"""Requests to a processor: each request is a turn, but never counts as a failure of the processor."""

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
    """A processor that keeps its instances until a request submits them."""

    name = "keeper"
    built = 0

    def open(self) -> None:
        type(self).built += 1
        self.opened_at = self.now()
        self.kept: list[Instance] = []
        self.states: list[JobState] = []
        self.wanted: list[int] = []

    def handle_instance(self, instance: Instance) -> None:
        self.kept.append(instance)

    def job_changed(self, job: Job) -> None:
        self.states.append(job.state)

    def free_space(self, wanted_bytes: int) -> None:
        self.wanted.append(wanted_bytes)

    def compose(self, **more: Any) -> Job:
        job = self.submit_pipeline_job("job", "pipeline-1", JobPriority.NORMAL, self.kept, **more)
        self.remove_instances(self.kept)
        self.kept = []
        return job


@pytest.fixture
def adapter(make_adapter: Callable[..., Adapter]) -> Adapter:
    class KeeperPlugin:
        @hookimpl
        def dicom_adapter_processors(self) -> list[type[Keeper]]:
            return [Keeper]

    Keeper.built = 0
    return make_adapter(CONFIGURATION, Plugin(KeeperPlugin()))


def receive(adapter: Adapter, count: int = 1) -> None:
    adapter.receive(*(make_instance(rows=2, columns=2) for _ in range(count)), ae_title="A")


def arrive(adapter: Adapter, instance: Dataset) -> None:
    """Store an instance without notifying the lane."""
    adapter._store.keep(make_request(instance, "A", "SCU", "0" * 32), encode(instance))


def compose(processor: Keeper) -> Job:
    return processor.compose()


def test_a_request_is_committed_before_its_result_is_returned(adapter: Adapter) -> None:
    """The result is the job as in the ledger, with the time of the request."""
    receive(adapter, 2)
    adapter.advance(60)
    job = adapter.ask("A", compose)
    assert [job.job_id] == [found.job_id for found in adapter.jobs]
    assert adapter.clock.now() == job.created_at
    assert {"reclaimed": 2} == adapter.states


def test_a_refused_request_is_rolled_back_and_keeps_the_processor(adapter: Adapter) -> None:
    """The caller gets the error. Actions of the request before the error are not committed."""
    receive(adapter)

    def refuse(processor: Keeper) -> None:
        processor.remove_instances(processor.kept)
        raise Refused("not today")

    with pytest.raises(Refused, match="not today"):
        adapter.ask("A", refuse)
    assert (1, {"pending": 1}) == (Keeper.built, adapter.states)


def test_an_unexpected_error_of_a_request_is_logged_and_passed_to_the_caller(
    adapter: Adapter, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log has the type and location of the error. The lane keeps its processor."""
    for failure in (KeyError("PID-4711"), SystemExit()):

        def fail(_processor: Keeper, failure: BaseException = failure) -> None:
            raise failure

        with pytest.raises(type(failure)):
            adapter.ask("A", fail)
    assert (1, LaneState.RUNNING) == (Keeper.built, adapter.lanes["A"].state)
    log = capsys.readouterr().out
    assert (2, 0) == (log.count("request_failed"), log.count("PID-4711"))


def test_instances_received_before_a_request_are_delivered_first(adapter: Adapter) -> None:
    """The lane has not been notified of the arrival yet."""
    arrive(adapter, make_instance(rows=2, columns=2))
    assert 1 == adapter.ask("A", lambda processor: len(processor.kept))


def test_a_request_that_could_not_be_committed_can_be_repeated(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger failed, so nothing was changed. A new processor gets the state of the ledger."""
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


def test_a_processor_that_differs_from_the_ledger_is_replaced(adapter: Adapter) -> None:
    """The caller gets the error of the refused commit. A new processor performs the next request."""
    receive(adapter)
    kept = adapter.ask("A", lambda processor: list(processor.kept))
    adapter.ask("A", compose)

    def remove_again(processor: Keeper) -> None:
        processor.remove_instances(kept)

    with pytest.raises(Refused, match="not pending"):
        adapter.ask("A", remove_again)
    assert [] == adapter.ask("A", lambda processor: processor.kept)
    assert 2 == Keeper.built


def test_a_request_whose_instance_is_replaced_is_repeated(make_adapter: Callable[..., Adapter]) -> None:
    """With `overwrite-same-instance`, the job gets the newer arrival.

    It is used although the lane had not seen it when the request began.
    """

    class KeeperPlugin:
        @hookimpl
        def dicom_adapter_processors(self) -> list[type[Keeper]]:
            return [Keeper]

    adapter = make_adapter(CONFIGURATION + "overwrite-same-instance = true\n", Plugin(KeeperPlugin()))
    instance = make_instance(rows=2, columns=2)
    adapter.receive(instance, ae_title="A")
    instance.AccessionNumber = "changed"
    asked: list[int] = []

    def compose_while_it_is_replaced(processor: Keeper) -> Job:
        asked.append(len(processor.kept))
        if len(asked) == 1:
            arrive(adapter, instance)
        return processor.compose()

    assert 1 == adapter.ask("A", compose_while_it_is_replaced).instance_count
    assert ([1, 1], 1) == (asked, len(adapter.jobs))


def test_a_stopped_lane_refuses_requests_with_the_reason(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller does not wait until an operator restarts the lane."""
    monkeypatch.setattr(Keeper, "open", lambda _self: 1 / 0)
    adapter.restart()
    adapter.advance(60)
    with pytest.raises(Refused, match="AE title 'A' is stopped: its processor failed"):
        adapter.ask("A", compose)


def test_requests_fail_when_the_service_stops(adapter: Adapter) -> None:
    """Waiting and later requests fail with the information that nothing was changed."""
    handle = adapter.host.handles["A"]
    early: Future[Job] = handle.ask(compose)
    adapter.host.close()
    late: Future[Job] = handle.ask(compose)
    for future in (early, late):
        with pytest.raises(Retriable, match="the service is stopping"):
            future.result(0)


def test_a_cancelled_request_is_not_performed(adapter: Adapter) -> None:
    """A request is cancelled if, for example, its client has disconnected."""
    receive(adapter)
    assert adapter.host.handles["A"].ask(compose).cancel()
    adapter.advance(1)
    assert [] == adapter.jobs


def test_a_caller_gets_an_error_at_whatever_moment_the_lane_is_closed(adapter: Adapter) -> None:
    """Two queues: one is closed between `first` and `pop`, the other while it performs a request that is repeated.

    Verified to fail when a request that is no longer in the queue is taken, or a request is put back into the queue of
    a closed lane (then the request never gets a result).
    """
    closed_before_pop, closed_during_request = Requests("A", adapter.clock), Requests("A", adapter.clock)
    futures = [closed_before_pop.add(lambda _processor: None), closed_during_request.add(lambda _processor: None)]
    assert closed_before_pop.first() is not None
    request = closed_during_request.pop()
    assert request is not None
    for requests in (closed_before_pop, closed_during_request):
        requests.close()
    assert closed_before_pop.pop() is None
    closed_during_request.put_back(request)
    assert [Retriable, Retriable] == [type(future.exception(0)) for future in futures]


def test_a_request_cannot_be_cancelled_while_it_is_performed(adapter: Adapter) -> None:
    """A cancelled request guarantees that nothing was changed."""
    receive(adapter)
    cancelled: list[bool] = []

    def ask(processor: Any) -> Job:
        cancelled.append(future.cancel())
        return compose(processor)

    future = adapter.host.handles["A"].ask(ask)
    adapter.advance(1)
    assert ([False], 1) == (cancelled, len(adapter.jobs))
    assert "job" == future.result(0).name


def test_a_processor_can_choose_submitter_and_id_of_a_job(adapter: Adapter) -> None:
    """The id prevents a second submission. An unknown submitter is refused."""
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


def test_a_processor_finds_its_jobs_and_is_notified_of_their_states(adapter: Adapter) -> None:
    """The processor finds only jobs of its AE title. Each notification is a separate turn."""
    receive(adapter)
    job = adapter.ask("A", compose)
    found = adapter.ask("A", lambda processor: processor.find_job(job.job_id))
    assert (JobState.SUBMITTED, None) == (found and found.state, adapter.host.handles["A"].find_job(JOB_ID))
    states = adapter.ask("A", lambda processor: processor.states)
    assert [JobState.CREATED, JobState.METADATA_SENT, JobState.UPLOADED, JobState.SUBMITTED] == states


def test_a_failing_job_notification_is_a_failure_of_the_processor(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor is replaced, as after any turn that raises."""
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "job_changed", lambda *_: 1 / 0)
        receive(adapter)
        adapter.ask("A", compose)
    adapter.advance(60)
    assert 2 <= Keeper.built
    assert LaneState.RUNNING is adapter.lanes["A"].state


def test_explain_shows_the_events_that_a_processor_records(adapter: Adapter) -> None:
    """The story has the processor's text and reason."""
    receive(adapter)

    def evict(processor: Keeper) -> str:
        processor.record("evicted", processor.kept, "free space was low")
        processor.remove_instances(processor.kept)
        return processor.kept[0].study_instance_uid

    study = adapter.ask("A", evict)
    with adapter.ledger.read() as transaction:
        story = make_story(transaction, study, adapter.clock.now())
    assert "1 instance was evicted: free space was low." in [
        entry.text for section in story.sections for entry in section.entries
    ]


def test_processors_are_requested_to_free_space_before_associations_are_rejected(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is repeated every ten seconds while free space is low."""
    monkeypatch.setattr(adapter.storage, "capacity", lambda: Capacity(total_bytes=1000, free_bytes=160))
    with_limits = {"watermark_percent": 85, "reserve": 0}
    adapter.host._config = evolve(adapter.config, storage=evolve(adapter.config.storage, **with_limits))
    adapter.advance(20)
    assert [10, 10] == adapter.ask("A", lambda processor: processor.wanted)


@pytest.mark.parametrize(
    ("free", "watermark", "reserve", "wanted"),
    [(171, 85, 0, 0), (160, 85, 0, 10), (120, 100, 100, 0), (100, 100, 100, 20), (0, 100, 0, 0), (50, 85, 300, 270)],
)
def test_processors_must_free_space_before_the_limit_is_reached(
    adapter: Adapter, free: int, watermark: int, reserve: int, wanted: int
) -> None:
    """Of 1000 bytes, 2 % must be free in addition to the watermark or the reserve, whichever is reached first."""
    storage = evolve(adapter.config.storage, watermark_percent=watermark, reserve=reserve)
    assert wanted == bytes_to_free(Capacity(total_bytes=1000, free_bytes=free), storage)
    assert 0 == bytes_to_free(None, storage)


def test_now_in_open_is_the_time_of_the_call(adapter: Adapter) -> None:
    """`open` can therefore set timers."""
    assert adapter.lanes["A"].since == adapter.ask("A", lambda processor: processor.opened_at)


def test_a_processor_that_raises_retriable_makes_its_lane_wait(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Retriable` in any method quarantines no instance and does not stop the lane."""

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
