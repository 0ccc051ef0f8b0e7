"""Lanes and turns: a turn happens whole or not at all, and one AE title's trouble stays its own."""

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
    """An adapter whose processors call `handle`; `methods` are further methods of theirs."""

    def make(handle: Callable[[Processor, Instance], object], **methods: Any) -> Adapter:
        class UnderTest(JobProcessorBase[NoSettings]):
            name = "under-test"

            def handle_instance(self, instance: Instance) -> None:
                handle(self, instance)

        class Brought:
            @hookimpl
            def dicom_adapter_processors(self) -> list[type[Processor]]:
                return [UnderTest]

        for name, method in methods.items():
            setattr(UnderTest, name, method)
        adapter: Adapter = make_adapter(CONFIGURATION, Plugin(Brought()))
        return adapter

    return make


def send(adapter: Adapter, count: int = 1, ae_title: str = "A") -> list[Instance]:
    data_sets = [make_instance(rows=2, columns=2, patient_id=SECRET) for _ in range(count)]
    answers = adapter.receive(*data_sets, ae_title=ae_title)
    return [answer.instance for answer in answers if answer.instance is not None]


def submit(processor: Processor, *taken: Instance, name: str = "job", pipeline: str = "p1", **more: Any) -> None:
    processor.submit_pipeline_job(name, pipeline, more.pop("priority", "normal"), taken, **more)


def finish(processor: Processor, *taken: Instance) -> None:
    submit(processor, *taken)
    processor.remove_instances(taken)


def seconds(when: datetime, adapter: Adapter) -> float:
    """Since the lanes were made."""
    return (when - adapter.lanes["B"].since).total_seconds()


def reasons(adapter: Adapter) -> list[str]:
    return [str(event.detail["reason"]) for event in adapter.events if event.event == "instance_quarantined"]


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_arguments: Any, **_keywords: Any) -> Any:
        raise error

    return fail


def later(action: Callable[..., object]) -> Callable[[Processor, Instance], object]:
    """Handles an instance by calling `action` with it 5 s later."""
    return lambda processor, instance: processor.call_later(5, lambda: action(processor, instance))


# --- a turn is a transaction ------------------------------------------------------------------------------------------


def test_a_turn_that_raises_leaves_nothing_and_everything_is_delivered_again(serve: Serve) -> None:
    """In order, with the original times, to a new processor. Tried: with a commit all the same, jobs stay."""
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


Take = Callable[[Processor, Instance, Instance, Instance], object]
WRONG: dict[str, Take] = {
    "another AE title's instance": lambda p, one, gone, other: submit(p, one, other),
    "another AE title's removal": lambda p, one, gone, other: p.remove_instances([other]),
    "what an earlier turn removed": lambda p, one, gone, other: submit(p, one, gone),
    "an unknown instance": lambda p, one, gone, other: submit(p, evolve(one, instance_id=999)),
    "one that it has not seen": lambda p, one, gone, other: submit(p, evolve(one, instance_id=one.instance_id + 1)),
    "no instances": lambda p, one, gone, other: submit(p),
    "no name": lambda p, one, gone, other: submit(p, one, name=""),
    "no pipeline": lambda p, one, gone, other: submit(p, one, pipeline=""),
    "no such priority": lambda p, one, gone, other: submit(p, one, priority="urgent"),
    "metadata that is no text": lambda p, one, gone, other: submit(p, one, metadata={"Age": object()}),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_what_can_never_be_a_job_refuses_the_whole_turn(serve: Serve, wrong: Take) -> None:
    """Two good submissions and a wrong one are none, and the processor has to answer for it: it is no outage.

    Tried: with errors of writing taken for an outage of the ledger, metadata that is no text is tried for ever.
    """
    taken: list[Instance] = []

    def handle(processor: Processor, instance: Instance) -> None:
        if instance.ae_title == "A":
            finish(processor, instance)
            if instance.instance_id > 2:
                submit(processor, instance, pipeline="p2")
                wrong(processor, instance, taken[1], taken[0])
            taken.append(instance)

    adapter = serve(handle)
    taken += send(adapter, ae_title="B")
    send(adapter, 3)
    adapter.advance(60)

    assert [("p1", 1)] == [(job.pipeline_id, job.instance_count) for job in adapter.jobs]
    assert {"pending": 1, "reclaimed": 1, "quarantined": 2} == adapter.states
    assert LaneState.RUNNING is adapter.lanes["A"].state


def test_a_processor_may_only_act_within_its_turns(serve: Serve) -> None:
    """Later, from a thread of its own say, nothing could be committed with anything."""
    kept: list[Any] = []
    adapter = serve(lambda processor, instance: kept.append((processor, instance)))
    send(adapter)
    ((processor, instance),) = kept
    for action in (submit, finish, lambda p, i: p.remove_instances([i]), lambda p, i: p.now()):
        with pytest.raises(RuntimeError, match="within a turn"):
            action(processor, instance)
    assert {"pending": 1} == adapter.states


def test_submitting_and_removing_are_two_things(serve: Serve) -> None:
    """What is submitted stays pending until it is removed; what is removed without a job is reclaimed."""

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


TIMERS = [("third", 3), ("never", 1), ("first", 1), ("fourth", 3), ("second", 2), ("one", 1)]


def test_timers_ring_in_the_order_of_their_times_unless_cancelled(serve: Serve) -> None:
    """Equal times ring as they were set; cancelling twice, or too late, does nothing."""
    rung: list[str] = []

    def handle(processor: Processor, _instance: Instance) -> None:
        timers = {name: processor.call_later(after, lambda name=name: rung.append(name)) for name, after in TIMERS}
        for name in ("never", "never", "one"):
            timers[name].cancel()
        processor.call_later(4, timers["first"].cancel)

    adapter = serve(handle)
    send(adapter)
    adapter.advance(2.9)
    assert ["first", "second"] == rung
    adapter.advance(9)
    assert ["first", "second", "third", "fourth"] == rung


@pytest.mark.parametrize("late", [False, True], ids=["in time", "made up for"])
def test_a_turn_has_a_time_of_its_own(serve: Serve, monkeypatch: Any, late: bool) -> None:
    """now() is when the instance had come or the timer was to ring, and waits count from there.

    Tried: with the host's time instead, what is made up for after an hour is decided differently.
    """
    story: list[Any] = []

    def handle(processor: Processor, instance: Instance) -> None:
        tell(processor, "instance")
        processor.call_later(0, lambda: tell(processor, "at once"))
        processor.call_later(3, lambda: processor.call_later(5, lambda: tell(processor, "3 + 5")))
        tell(processor, "still the same turn")

    def tell(processor: Processor, what: str) -> None:
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


def test_a_time_without_a_time_zone_is_refused_where_it_is_given(serve: Serve) -> None:
    """Tried: when it is not, comparing it fails in the lane, outside of every turn, again and again."""
    mistake = datetime(2026, 1, 5)  # noqa: DTZ001
    adapter = serve(lambda processor, _instance: processor.call_at(mistake, print))
    send(adapter)
    adapter.advance(9)

    assert {"quarantined": 1} == adapter.states


def test_a_timer_that_no_thread_can_wait_for_is_refused_where_it_is_set(serve: Serve) -> None:
    """Tried: when it is not, the lane waits for it as long as threads can: it fails, outside of every turn."""
    never = datetime.max.replace(tzinfo=timezone.utc)
    told: list[str] = []

    def handle(processor: Processor, instance: Instance) -> None:
        with pytest.raises(ValueError, match="before the year 2200") as refusal:
            processor.call_at(never, print)
        told.append(str(refusal.value))
        finish(processor, instance)

    adapter = serve(handle)
    send(adapter)

    assert 1 == len(told)
    assert {"reclaimed": 1} == adapter.states


def test_what_came_before_its_group_was_due_belongs_to_it_however_late_its_row_is(serve: Serve) -> None:
    """A receiver gives an instance its time, then waits for the ledger. Two arrivals are late here, one at each try.

    Tried: without the look at the commit, the group is split.
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


def test_what_came_after_its_group_was_due_leaves_that_alone(serve: Serve) -> None:
    """It begins a group of its own. Tried: whatever had arrived had the turn taken again."""
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
    """Another process stores an instance that had come `at` that time."""
    clock = VirtualClock()
    clock.move_to(at)
    other = Ledger(adapter.ledger.url)
    data_set = make_instance(rows=2, columns=2)
    request = make_request(data_set, "A", "CT1", "association")
    Store(adapter.config, Resources(ledger=other, storage=adapter.storage, clock=clock)).keep(request, encode(data_set))
    other.close()


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_one_ae_titles_trouble_stays_its_own(serve: Serve, capsys: Any) -> None:
    """After five failures in a row the lane of A is stopped and its associations are refused; B goes on.

    The reason tells where, and nothing of the patient. A restart gives A another chance.
    """

    def handle(processor: Processor, instance: Instance) -> None:
        if broken and processor.ae_title == "A":
            raise ValueError(SECRET)
        finish(processor, instance)

    broken = True
    adapter = serve(later(handle))
    sent = send(adapter, 2), send(adapter, 2, "B")
    adapter.advance(5 + 1 + 2 + 4 + 8 - 0.1)
    assert (LaneState.RUNNING, "") == (adapter.lanes["A"].state, adapter.lanes["A"].reason)
    adapter.advance(0.1)

    report = adapter.lanes["A"]
    assert (LaneState.STOPPED, 20) == (report.state, seconds(report.since, adapter))
    assert report.reason.startswith("its processor failed 5 times in a row: ValueError at ")
    assert SECRET not in report.reason + capsys.readouterr().out + repr(adapter.events)
    assert LaneState.RUNNING is adapter.lanes["B"].state
    assert [[instance] for instance in sent[1]] == [adapter.instances_of(job) for job in adapter.jobs]
    with adapter.ledger.read() as transaction:
        load = Load(associations=0, capacity=None, stopped=lanes.stopped(transaction), full={})
    calls = [AssociationRequest(called_ae_title=name, calling_ae_title="X", peer_address="::1") for name in "AB"]
    assert [Rejection.TEMPORARY_CONGESTION, None] == [judge(call, adapter.config, load).rejection for call in calls]

    send(adapter)
    adapter.advance(60)
    assert {"pending": 3, "reclaimed": 2} == adapter.states
    broken = False
    adapter.restart()
    assert (LaneState.RUNNING, "") == (adapter.lanes["A"].state, adapter.lanes["A"].reason)
    assert {"reclaimed": 5} == adapter.states


def test_an_instance_that_always_fails_is_quarantined_after_three_tries(serve: Serve, capsys: Any) -> None:
    """After pauses of 1 s and 2 s; those before it come again each time, those after it go on."""
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


def test_what_a_processor_cannot_take_is_quarantined_at_once(serve: Serve) -> None:
    """With the reason that it gives; nothing that the turn asked for happens, and the processor keeps its state."""
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


def test_a_bad_start_is_past_when_the_processor_works(serve: Serve) -> None:
    """Four failures to open, an hour of work, one failure: a new row. Tried: when only a timer ends it, this stops."""
    at_opening, at_handling = [OSError()] * 4, [OSError()]

    def handle(_processor: Processor, instance: Instance) -> None:
        if instance.instance_id == 2 and at_handling:
            raise at_handling.pop()

    def open_(processor: Processor) -> None:
        if at_opening and processor.ae_title == "A":
            raise at_opening.pop()

    adapter = serve(handle, open=open_)
    adapter.advance(15)
    send(adapter)
    adapter.clock.advance(3600)
    send(adapter)
    adapter.advance(60)

    assert ([], []) == (at_opening, at_handling)
    assert LaneState.RUNNING is adapter.lanes["A"].state


class Panic(BaseException):
    """As pyo3 raises it for a panic in Rust, and asyncio for a task that was cancelled."""


@pytest.mark.parametrize("error", [ValueError(SECRET), SystemExit(1), Panic()], ids=["raises", "leaves", "panics"])
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
def test_whatever_a_processor_raises_the_host_lives_on(
    serve: Serve, method: str, state: LaneState, becomes: str, error: BaseException
) -> None:
    """A processor that calls sys.exit() is no different. Tried: it ended the lane's thread, and nobody was told.

    Tried, too: what is no Exception left the turn, and the lane went on without the instance.
    """
    adapter = serve(finish, **{method: failing(error)})
    send(adapter, 2)
    adapter.advance(60)

    assert (state, {becomes: 2}) == (adapter.lanes["A"].state, adapter.states)
    adapter.restart()
    assert {becomes: 2} == adapter.states


def test_a_processor_that_goes_on_about_what_was_replaced_has_failed(serve: Serve, monkeypatch: Any) -> None:
    """It keeps its state outside of itself. Tried: taken for bad luck each time, its lane begins again for ever."""
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


NONSENSE = {
    "a time without a time zone": Waiting(label="x", instance_count=1, until=datetime(2026, 1, 5)),  # noqa: DTZ001
    "a time that no year has": Waiting(label="x", instance_count=1, until=datetime.max.replace(tzinfo=WEST)),
    "a count that is no whole number": Waiting(label="x", instance_count=Fraction(1), until=None),  # type: ignore[arg-type] # the mistake
    "something else": "study 1.2.3",
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_for_operators_does_not_hold_up_the_lane(serve: Serve, nonsense: Any) -> None:
    """What waits is only for show. Tried: it failed outside of every turn, where it was written, again and again."""
    adapter = serve(finish, waiting=lambda _processor: [nonsense])
    send(adapter)
    adapter.advance(1)

    assert {"reclaimed": 1} == adapter.states
    assert () == adapter.lanes["A"].waiting
