"""Lanes and turns: a turn is atomic, and failures of one AE title do not affect others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter import InstanceStorageInfo as Instance
from dicom_adapter import JobProcessorBase, NoSettings, Unprocessable, Waiting, hookimpl
from dicom_adapter.api.receiving import AssociationRequest, Rejection
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.acceptance import Space
from dicom_adapter.flow.association import Load, judge
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import Ledger, instances, lanes
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.simulation.clock import VirtualClock
from dicom_adapter.testing import Adapter, Plugin

CONFIGURATION = """
[submitters.clara]
type = "memory"
[ae-titles.A]
processor = "under-test"
[ae-titles.B]
processor = "under-test"
"""
SECRET = "PID-4711"
WEST = timezone(timedelta(hours=-5))

Processor = JobProcessorBase[Any]
Serve = Callable[..., Adapter]


@pytest.fixture
def serve(make_adapter: Any) -> Serve:
    """Return a function that creates an adapter whose processors call `handle` and have these other `methods`."""

    def make(handle: Callable[[Processor, Instance], object], **methods: Any) -> Adapter:
        class UnderTest(JobProcessorBase[NoSettings]):
            name = "under-test"

            def handle_instance(self, instance: Instance) -> None:
                handle(self, instance)

        class UnderTestPlugin:
            @hookimpl
            def dicom_adapter_processors(self) -> list[type[Processor]]:
                return [UnderTest]

        for name, method in methods.items():
            setattr(UnderTest, name, method)
        adapter: Adapter = make_adapter(CONFIGURATION, Plugin(UnderTestPlugin()))
        return adapter

    return make


def send(adapter: Adapter, count: int = 1, ae_title: str = "A") -> list[Instance]:
    data_sets = [make_instance(rows=2, columns=2, patient_id=SECRET) for _ in range(count)]
    answers = adapter.receive(*data_sets, ae_title=ae_title)
    return [answer.instance for answer in answers if answer.instance is not None]


def submit(processor: Processor, *group: Instance, name: str = "job", pipeline: str = "p1", **more: Any) -> None:
    processor.submit_pipeline_job(name, pipeline, more.pop("priority", "normal"), group, **more)


def finish(processor: Processor, *group: Instance) -> None:
    submit(processor, *group)
    processor.remove_instances(group)


def seconds(when: datetime, adapter: Adapter) -> float:
    """Return the seconds since the lanes were created."""
    return (when - adapter.lanes["B"].since).total_seconds()


def reasons(adapter: Adapter) -> list[str]:
    return [str(event.detail["reason"]) for event in adapter.events if event.event == "instance_quarantined"]


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_arguments: Any, **_keywords: Any) -> Any:
        raise error

    return fail


def later(action: Callable[..., object]) -> Callable[[Processor, Instance], object]:
    """Return a handler that calls `action` with the instance 5 s later."""
    return lambda processor, instance: processor.call_later(5, lambda: action(processor, instance))


# --- a turn is a transaction ------------------------------------------------------------------------------------------


def test_a_turn_that_raises_is_rolled_back_and_instances_are_delivered_to_a_new_processor(serve: Serve) -> None:
    """The instances are delivered in order, with the original times.

    Verified to fail when the turn is committed after the exception.
    """
    seen: list[tuple[Processor, int, datetime]] = []

    def handle(processor: Processor, instance: Instance) -> None:
        seen.append((processor, instance.instance_id, instance.received_at))
        if instance.instance_id == 3:
            finish(processor, *first, instance)
            if len(seen) == 3:
                raise ValueError(SECRET)

    adapter = serve(handle)
    first = send(adapter, 2)
    adapter.clock.advance(2)
    send(adapter)
    assert ([], {"pending": 3}) == (adapter.jobs, adapter.states)
    adapter.advance(1)

    assert [1, 2, 3, 1, 2, 3] == [number for _processor, number, _at in seen]
    assert [0, 0, 2] * 2 == [seconds(at, adapter) for _processor, _number, at in seen]
    assert seen[0][0] is seen[2][0] is not seen[3][0] is seen[5][0]
    assert ([3], {"reclaimed": 3}) == ([job.instance_count for job in adapter.jobs], adapter.states)


# Arguments: the processor, its instance, a released instance, and an instance of another AE title.
InvalidAction = Callable[[Processor, Instance, Instance, Instance], object]
INVALID_ACTIONS: dict[str, InvalidAction] = {
    "another AE title's instance": lambda p, one, released, other: submit(p, one, other),
    "the removal of another AE title's instance": lambda p, one, released, other: p.remove_instances([other]),
    "an instance that an earlier turn removed": lambda p, one, released, other: submit(p, one, released),
    "an unknown instance": lambda p, one, released, other: submit(p, evolve(one, instance_id=999)),
    "an instance that was not delivered yet": lambda p, one, released, other: submit(
        p, evolve(one, instance_id=one.instance_id + 1)
    ),
    "no instances": lambda p, one, released, other: submit(p),
    "no name": lambda p, one, released, other: submit(p, one, name=""),
    "no pipeline": lambda p, one, released, other: submit(p, one, pipeline=""),
    "an unknown priority": lambda p, one, released, other: submit(p, one, priority="urgent"),
    "metadata that is not text": lambda p, one, released, other: submit(p, one, metadata={"Age": object()}),
}


@pytest.mark.parametrize("act", INVALID_ACTIONS.values(), ids=INVALID_ACTIONS.keys())
def test_an_invalid_submission_fails_the_whole_turn(serve: Serve, act: InvalidAction) -> None:
    """Two valid submissions in the same turn are not committed.

    The turn counts as a failure of the processor, not an outage.

    Verified to fail when invalid values count as an outage of the ledger (then metadata that is not text is retried
    forever).
    """
    earlier: list[Instance] = []

    def handle(processor: Processor, instance: Instance) -> None:
        if instance.ae_title == "A":
            finish(processor, instance)
            if instance.instance_id > 2:
                submit(processor, instance, pipeline="p2")
                act(processor, instance, earlier[1], earlier[0])
            earlier.append(instance)

    adapter = serve(handle)
    earlier += send(adapter, ae_title="B")
    send(adapter, 3)
    adapter.advance(60)

    assert [("p1", 1)] == [(job.pipeline_id, job.instance_count) for job in adapter.jobs]
    assert {"pending": 1, "reclaimed": 1, "quarantined": 2} == adapter.states
    assert LaneState.RUNNING is adapter.lanes["A"].state


def test_a_processor_can_only_act_within_its_turns(serve: Serve) -> None:
    """An action outside of a turn, for example in a thread of the processor, has no transaction."""
    kept: list[Any] = []
    adapter = serve(lambda processor, instance: kept.append((processor, instance)))
    send(adapter)
    ((processor, instance),) = kept
    for action in (submit, finish, lambda p, i: p.remove_instances([i]), lambda p, i: p.now()):
        with pytest.raises(RuntimeError, match="within a turn"):
            action(processor, instance)
    assert {"pending": 1} == adapter.states


def test_submitting_does_not_release_instances(serve: Serve) -> None:
    """A submitted instance stays pending until it is removed.

    An instance that is removed without a job is reclaimed.
    """

    def handle(processor: Processor, instance: Instance) -> None:
        if instance.instance_id == 1:
            submit(processor, instance, instance)
            submit(processor, instance, pipeline="p2")
        else:
            processor.remove_instances([instance, instance])

    adapter = serve(handle)
    send(adapter, 2)

    assert [("p1", 1), ("p2", 1)] == [(job.pipeline_id, job.instance_count) for job in adapter.jobs]
    assert {"Source": "A (under-test)", "Instances": "1"} == dict(adapter.jobs[0].metadata)
    assert {"pending": 1, "reclaimed": 1} == adapter.states


# --- timers -----------------------------------------------------------------------------------------------------------


# Names and seconds; "never" and "one" are cancelled.
TIMERS = [("third", 3), ("never", 1), ("first", 1), ("fourth", 3), ("second", 2), ("one", 1)]


def test_timers_run_in_the_order_of_their_times_unless_cancelled(serve: Serve) -> None:
    """Timers with equal times run in the order in which they were set. A second or late cancel has no effect."""
    called: list[str] = []

    def handle(processor: Processor, _instance: Instance) -> None:
        timers = {name: processor.call_later(after, lambda name=name: called.append(name)) for name, after in TIMERS}
        for name in ("never", "never", "one"):
            timers[name].cancel()
        processor.call_later(4, timers["first"].cancel)

    adapter = serve(handle)
    send(adapter)
    adapter.advance(2.9)
    assert ["first", "second"] == called
    adapter.advance(9)
    assert ["first", "second", "third", "fourth"] == called


@pytest.mark.parametrize("late", [False, True], ids=["in time", "delayed"])
def test_the_time_of_a_turn_is_that_of_its_arrival_or_timer(serve: Serve, monkeypatch: Any, late: bool) -> None:
    """now() is the time of arrival or the due time of the timer. New timers count from this time.

    Verified to fail when the turn gets the current time of the host (then turns that are delayed by an hour have other
    results).
    """
    story: list[Any] = []

    def handle(processor: Processor, instance: Instance) -> None:
        record_time(processor, "instance")
        processor.call_later(0, lambda: record_time(processor, "at once"))
        processor.call_later(3, lambda: processor.call_later(5, lambda: record_time(processor, "3 + 5")))
        record_time(processor, "still the same turn")

    def record_time(processor: Processor, what: str) -> None:
        story.append((seconds(processor.now(), adapter), what))

    adapter = serve(handle)
    adapter.clock.advance(2)
    if late:
        monkeypatch.setattr(adapter.host, "run_until_idle", lambda: None)
        send(adapter)
        monkeypatch.undo()
        adapter.clock.advance(3600)
        assert [] == story
        adapter.host.run_until_idle()
    else:
        send(adapter)
        adapter.advance(8)

    assert [(2, "instance"), (2, "still the same turn"), (2, "at once"), (10, "3 + 5")] == story


def test_call_at_refuses_a_time_without_a_time_zone(serve: Serve) -> None:
    """Verified to fail when the time is not checked (then comparisons fail in the lane, outside of all turns)."""
    mistake = datetime(2026, 1, 5)  # noqa: DTZ001
    adapter = serve(lambda processor, _instance: processor.call_at(mistake, print))
    send(adapter)
    adapter.advance(9)

    assert {"quarantined": 1} == adapter.states


def test_a_timer_too_far_in_the_future_is_refused(serve: Serve) -> None:
    """No thread can wait that long.

    Verified to fail when the time is not checked (then the wait fails in the lane, outside of all turns).
    """
    never = datetime.max.replace(tzinfo=timezone.utc)
    refusals: list[str] = []

    def handle(processor: Processor, instance: Instance) -> None:
        with pytest.raises(ValueError, match="before the year 2200") as refusal:
            processor.call_at(never, print)
        refusals.append(str(refusal.value))
        finish(processor, instance)

    adapter = serve(handle)
    send(adapter)

    assert 1 == len(refusals)
    assert {"reclaimed": 1} == adapter.states


def test_an_arrival_before_the_due_time_joins_its_group_although_its_row_is_late(serve: Serve) -> None:
    """A receiver sets the time of arrival, then waits for the ledger to write the row.

    Here two rows are late: one in each of the first two attempts of the turn.

    Verified to fail when the commit does not check for arrivals (then the group is split).
    """
    groups: dict[Processor, list[Instance]] = {}
    late = 2
    turns: list[int] = []

    def handle(processor: Processor, instance: Instance) -> None:
        turns.append(instance.instance_id)
        group = groups.setdefault(processor, [])
        group.append(instance)
        if len(group) == 1:
            processor.call_later(5, lambda: due(processor))

    def due(processor: Processor) -> None:
        nonlocal late
        if late:
            late -= 1
            arrive_unnoticed(adapter, processor.now())
        finish(processor, *groups[processor])

    adapter = serve(handle)
    first, second = send(adapter, 2)
    adapter.advance(5)

    (job,) = adapter.jobs
    assert [1, 2, 3, 4] == [instance.instance_id for instance in adapter.instances_of(job)]
    assert [1, 2, 1, 2, 3, 1, 2, 3, 4] == turns
    assert (first.received_at, second.received_at) < (job.created_at,) * 2
    assert {"reclaimed": 4} == adapter.states


def test_an_arrival_after_the_due_time_starts_a_new_group(serve: Serve) -> None:
    """Verified to fail when any arrival repeats the turn."""
    turns: list[int] = []

    def handle(processor: Processor, instance: Instance) -> None:
        turns.append(instance.instance_id)
        processor.call_later(5, lambda: due(processor, instance))

    def due(processor: Processor, instance: Instance) -> None:
        if turns == [1]:
            arrive_unnoticed(adapter, processor.now() + timedelta(milliseconds=1))
        finish(processor, instance)

    adapter = serve(handle)
    send(adapter)
    adapter.advance(11)

    assert [1, 2] == turns
    assert [1, 1] == [job.instance_count for job in adapter.jobs]


def arrive_unnoticed(adapter: Adapter, at: datetime) -> None:
    """Store an instance with this time of arrival, as another process would."""
    clock = VirtualClock()
    clock.move_to(at)
    other = Ledger(adapter.ledger.url)
    data_set = make_instance(rows=2, columns=2)
    request = make_request(data_set, "A", "CT1", "association")
    Store(adapter.config, Resources(ledger=other, storage=adapter.storage, clock=clock)).keep(request, encode(data_set))
    other.close()


# --- failures ---------------------------------------------------------------------------------------------------------


def test_failures_of_one_ae_title_do_not_affect_another(serve: Serve, capsys: Any) -> None:
    """After five consecutive failures, the lane of A stops and its associations are rejected. B continues.

    The reason has the location and no patient data. After a restart of the service, A runs again.
    """

    def handle(processor: Processor, instance: Instance) -> None:
        if broken and processor.ae_title == "A":
            raise ValueError(SECRET)
        finish(processor, instance)

    broken = True
    adapter = serve(later(handle))
    sent = send(adapter, 2), send(adapter, 2, "B")
    adapter.advance(5 + 1 + 2 + 4 + 8 - 0.1)  # the timer, and the pauses after four failures
    assert (LaneState.RUNNING, "") == (adapter.lanes["A"].state, adapter.lanes["A"].reason)
    adapter.advance(0.1)

    report = adapter.lanes["A"]
    assert (LaneState.STOPPED, 20) == (report.state, seconds(report.since, adapter))
    assert report.reason.startswith("its processor failed 5 times in a row: ValueError at ")
    assert SECRET not in report.reason + capsys.readouterr().out + repr(adapter.events)
    assert LaneState.RUNNING is adapter.lanes["B"].state
    assert [[instance] for instance in sent[1]] == [adapter.instances_of(job) for job in adapter.jobs]
    with adapter.ledger.read() as transaction:
        load = Load(associations=0, space=Space(), stopped=lanes.stopped(transaction), full={})
    calls = [AssociationRequest(called_ae_title=name, calling_ae_title="X", peer_address="::1") for name in "AB"]
    assert [Rejection.TEMPORARY_CONGESTION, None] == [judge(call, adapter.config, load).rejection for call in calls]

    send(adapter)
    adapter.advance(60)
    assert {"pending": 3, "reclaimed": 2} == adapter.states
    broken = False
    adapter.restart()
    assert (LaneState.RUNNING, "") == (adapter.lanes["A"].state, adapter.lanes["A"].reason)
    assert {"reclaimed": 5} == adapter.states


def test_an_instance_that_always_fails_is_quarantined_after_three_attempts(serve: Serve, capsys: Any) -> None:
    """The pauses are 1 s and 2 s. Each time, earlier instances are delivered again; later instances are processed."""
    seen: list[int] = []

    def handle(_processor: Processor, instance: Instance) -> None:
        seen.append(instance.instance_id)
        if instance.instance_id == 2:
            raise ValueError(SECRET)

    adapter = serve(handle)
    send(adapter, 3)
    adapter.advance(1 + 2)

    assert [1, 2, 1, 2, 1, 2, 1, 3] == seen
    assert {"pending": 2, "quarantined": 1} == adapter.states
    (reason,) = reasons(adapter)
    assert reason.startswith("the processor failed on it 3 times: ValueError at ")
    assert SECRET not in capsys.readouterr().out + repr(adapter.events)
    assert LaneState.RUNNING is adapter.lanes["A"].state
    adapter.restart()
    assert [1, 3] == seen[8:]


def test_an_unprocessable_instance_is_quarantined_at_once(serve: Serve) -> None:
    """The reason is that of the processor. The turn is rolled back, and the processor keeps its state."""
    seen: list[tuple[Processor, int]] = []

    def handle(processor: Processor, instance: Instance) -> None:
        seen.append((processor, instance.instance_id))
        if instance.instance_id == 2:
            finish(processor, instance)
            raise Unprocessable("it has no accession number")

    adapter = serve(handle)
    send(adapter, 3)

    assert [(seen[0][0], number) for number in (1, 2, 3)] == seen
    assert (["it has no accession number"], []) == (reasons(adapter), adapter.jobs)
    assert {"pending": 2, "quarantined": 1} == adapter.states


def test_a_successful_turn_resets_the_count_of_failures(serve: Serve) -> None:
    """After four failures to open and an hour of work, another failure is the first of a new count.

    Verified to fail when only a timer resets the count (then the lane stops).
    """
    at_opening, at_handling = [OSError()] * 4, [OSError()]

    def handle(_processor: Processor, instance: Instance) -> None:
        if instance.instance_id == 2 and at_handling:
            raise at_handling.pop()

    def open_(processor: Processor) -> None:
        if at_opening and processor.ae_title == "A":
            raise at_opening.pop()

    adapter = serve(handle, open=open_)
    adapter.advance(1 + 2 + 4 + 8)  # the pauses after four failures
    send(adapter)
    adapter.clock.advance(3600)
    send(adapter)
    adapter.advance(60)

    assert ([], []) == (at_opening, at_handling)
    assert LaneState.RUNNING is adapter.lanes["A"].state


class Panic(BaseException):
    """A BaseException, like pyo3's for a panic in Rust, or asyncio's for a cancelled task."""


@pytest.mark.parametrize("error", [ValueError(SECRET), SystemExit(1), Panic()], ids=["raises", "exits", "panics"])
@pytest.mark.parametrize(
    ("method", "state", "becomes"),
    [
        ("__init__", LaneState.STOPPED, "pending"),
        ("open", LaneState.STOPPED, "pending"),
        ("handle_instance", LaneState.RUNNING, "quarantined"),
        ("waiting", LaneState.RUNNING, "reclaimed"),
        ("close", LaneState.RUNNING, "reclaimed"),
    ],
)
def test_the_host_survives_every_exception_of_a_processor(
    serve: Serve, method: str, state: LaneState, becomes: str, error: BaseException
) -> None:
    """The exceptions include SystemExit of sys.exit() in the processor.

    Verified to fail when a BaseException ends the thread of the lane, or is not caught in the turn (then the instance
    is lost).
    """
    adapter = serve(finish, **{method: failing(error)})
    send(adapter, 2)
    adapter.advance(60)

    assert (state, {becomes: 2}) == (adapter.lanes["A"].state, adapter.states)
    adapter.restart()
    assert {becomes: 2} == adapter.states


def test_a_processor_that_keeps_submitting_a_replaced_instance_has_failed(serve: Serve, monkeypatch: Any) -> None:
    """The processor keeps its state outside of the processor object, so that a rebuilt processor has the same state.

    Verified to fail when a conflict never counts as a failure (then the lane rebuilds the processor forever).
    """
    kept: list[Instance] = []

    def handle(processor: Processor, instance: Instance) -> None:
        kept.append(instance)
        finish(processor, kept[0])

    adapter = serve(handle)
    monkeypatch.setattr(adapter.host, "run_until_idle", lambda: None)
    first, other = send(adapter, 2)
    with adapter.ledger.write() as transaction:
        newer = evolve(first, storage_key="newer", received_at=adapter.clock.now())
        instances.replace(transaction, first, newer)
    kept.append(first)
    monkeypatch.undo()
    adapter.advance(1 + 2)

    (reason,) = reasons(adapter)
    assert reason.startswith("the processor failed on it 3 times: Superseded at ")
    assert [other.instance_id] == [event.instance_id for event in adapter.events if "reason" in event.detail]
    assert LaneState.RUNNING is adapter.lanes["A"].state


INVALID_WAITING = {
    "a time without a time zone": Waiting(label="x", instance_count=1, until=datetime(2026, 1, 5)),  # noqa: DTZ001
    "a time after the year 9999 in UTC": Waiting(label="x", instance_count=1, until=datetime.max.replace(tzinfo=WEST)),
    "a count that is not an int": Waiting(label="x", instance_count=Fraction(1), until=None),  # type: ignore[arg-type] # the mistake
    "something else": "study 1.2.3",
}


@pytest.mark.parametrize("invalid", INVALID_WAITING.values(), ids=INVALID_WAITING.keys())
def test_invalid_waiting_information_does_not_block_the_lane(serve: Serve, invalid: Any) -> None:
    """The values of `waiting` are only information for operators.

    Verified to fail when the values are not checked (then saving them fails outside of all turns).
    """
    adapter = serve(finish, waiting=lambda _processor: [invalid])
    send(adapter)
    adapter.advance(1)

    assert {"reclaimed": 1} == adapter.states
    assert () == adapter.lanes["A"].waiting
