"""Workers sleep until a time or a wake-up, end only when they are stopped, and survive exceptions."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from dicom_adapter.runtime import workers
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.deadline import TookTooLong, call_within
from dicom_adapter.runtime.workers import LONGEST_PAUSE, Condition, Worker
from dicom_adapter.testing import VirtualClock

PATIENCE_S = 30.0  # longest wait of a test for an expected event


class Scripted:
    """A step with prepared outcomes that records its calls."""

    def __init__(self, *outcomes: BaseException | datetime | None) -> None:
        self._outcomes = list(outcomes)
        self.called: queue.Queue[int] = queue.Queue()
        self.calls = 0

    def __call__(self) -> datetime | None:
        self.calls += 1
        self.called.put(self.calls)
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def wait_for(self, call: int) -> None:
        assert call == self.called.get(timeout=PATIENCE_S)


@pytest.fixture
def started() -> Iterator[list[Worker]]:
    """Workers that are stopped when the test ends."""
    running: list[Worker] = []
    yield running
    for worker in running:
        worker.stop()
    assert all(worker.join(PATIENCE_S) for worker in running)


def start(step: Scripted, started: list[Worker]) -> Worker:
    worker = Worker("under test", step, SystemClock())
    started.append(worker)
    worker.start()
    return worker


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
def test_a_step_that_raises_is_repeated(
    failure: BaseException, started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker ends silently, not even if a plugin raises SystemExit."""
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.0)
    step = Scripted(failure, failure, None)
    start(step, started)
    for call in (1, 2, 3):
        step.wait_for(call)


def test_the_pause_doubles_with_each_failure_up_to_a_limit_and_a_success_resets_it() -> None:
    """The pauses are 1, 2, 4 … 30 seconds. After a success the next failure is followed by the first pause again."""
    step = Scripted(*[ValueError("no")] * 20, None, ValueError("no"))
    worker = Worker("under test", step, VirtualClock())
    pauses = [worker._run_step() for _ in range(22)]
    assert [1.0, 2.0, 4.0, 8.0, 16.0, *[LONGEST_PAUSE] * 15, None, 1.0] == pauses


@pytest.mark.parametrize(("seconds", "pause"), [(-5.0, 0.0), (0.0, 0.0), (2.5, 2.5)])
def test_a_step_is_repeated_at_the_time_that_it_returns(seconds: float, pause: float) -> None:
    """The step is repeated at once if the returned time has passed."""
    clock = VirtualClock()
    step = Scripted(clock.now() + timedelta(seconds=seconds))
    assert pause == Worker("under test", step, clock)._run_step()


def test_a_waiting_worker_can_be_woken(started: list[Worker]) -> None:
    """It is woken from each kind of wait: without a time, until a distant time, and in the pause after a failure."""
    tomorrow = SystemClock().now() + timedelta(days=1)
    step = Scripted(None, tomorrow, *[ValueError("no")] * 8, None)
    worker = start(step, started)
    for call in range(1, 12):
        step.wait_for(call)
        worker.wake()


def test_a_wake_up_during_a_step_is_not_lost(started: list[Worker]) -> None:
    """The next step handles everything that arrived during the step."""
    entered, go_on, again = threading.Event(), threading.Event(), threading.Event()

    class Slow(Scripted):
        def __call__(self) -> None:
            if entered.is_set():
                again.set()
            entered.set()
            assert go_on.wait(PATIENCE_S)

    worker = start(Slow(), started)
    assert entered.wait(PATIENCE_S)
    worker.wake()
    go_on.set()
    assert again.wait(PATIENCE_S)


def test_a_stopped_worker_ends_after_its_current_step(started: list[Worker]) -> None:
    """The current step is finished, and no further step begins."""
    entered, go_on = threading.Event(), threading.Event()
    finished: list[bool] = []

    class Slow(Scripted):
        def __call__(self) -> datetime:
            entered.set()
            finished.append(go_on.wait(PATIENCE_S))
            return SystemClock().now()

    worker = start(Slow(), started)
    assert entered.wait(PATIENCE_S)
    worker.stop()
    assert not worker.join(0)
    go_on.set()
    assert worker.join(PATIENCE_S)
    assert [True] == finished


def test_a_waiting_worker_ends_when_it_is_stopped(started: list[Worker]) -> None:
    """The end does not depend on the remaining wait."""
    step = Scripted(None)
    worker = start(step, started)
    step.wait_for(1)
    worker.stop()
    assert worker.join(PATIENCE_S)
    assert 1 == step.calls


def test_the_duration_of_a_step_is_visible_to_other_threads(started: list[Worker]) -> None:
    """Start (wall clock) and duration (monotonic clock) are visible; between two steps there are none."""
    clock, seconds = VirtualClock(), [100.0]
    entered, go_on, again = threading.Event(), threading.Event(), threading.Event()

    def step() -> datetime | None:
        if entered.is_set():
            again.set()
            return None
        entered.set()
        assert go_on.wait(PATIENCE_S)
        return clock.now()

    worker = Worker("under test", step, clock, lambda: seconds[0])
    assert Condition() == worker.condition()
    started.append(worker)
    began = clock.now()
    worker.start()
    assert entered.wait(PATIENCE_S)
    clock.advance(-3600)
    seconds[0] += 31
    assert Condition(busy_since=began, busy_seconds=31.0) == worker.condition()
    go_on.set()
    assert again.wait(PATIENCE_S)
    worker.stop()
    assert worker.join(PATIENCE_S)
    assert Condition() == worker.condition()


def test_failures_in_a_row_are_visible_to_other_threads() -> None:
    """The values are the number of failures and the error of the last failure. A success resets both."""
    worker = Worker("under test", Scripted(ValueError("no"), KeyError("no"), None), VirtualClock())
    worker._run_step()
    worker._run_step()
    condition = worker.condition()
    assert (2, "KeyError") == (condition.failures, condition.error.split()[0])
    worker._run_step()
    assert Condition() == worker.condition()


# A failing log ends a worker's thread.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_unexpectedly_is_started_again(
    started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was stopped is not started again.

    Verified to fail when `revive` always returns False, or does not check whether the worker was stopped.
    """
    broken = True

    def error(*_texts: object, **_fields: object) -> None:
        if broken:
            raise OSError("no space for logs")

    monkeypatch.setattr(workers.log, "error", error, raising=False)
    step = Scripted(ValueError("no"), None)
    worker = start(step, started)
    step.wait_for(1)
    assert worker.join(PATIENCE_S)
    broken = False
    assert worker.revive()
    step.wait_for(2)
    assert not worker.revive()
    worker.stop()
    assert worker.join(PATIENCE_S)
    assert not worker.revive()


def test_a_call_that_does_not_return_is_abandoned() -> None:
    """A call that ends in time returns or raises unchanged."""
    never = threading.Event()
    assert 3 == call_within(PATIENCE_S, lambda: 3)
    with pytest.raises(SystemExit):
        call_within(PATIENCE_S, lambda: sys.exit(1))
    with pytest.raises(TookTooLong, match=r"it did not return within 0\.01 seconds"):
        call_within(0.01, lambda: never.wait(PATIENCE_S))
    never.set()


def test_a_worker_whose_thread_is_starting_is_not_revived(
    started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the worker would have two threads. Verified to fail when the thread is stored before it is started."""
    step, begin, revived = Scripted(), threading.Thread.start, list[bool]()

    def revive_first(thread: threading.Thread) -> None:
        monkeypatch.undo()
        revived.append(worker.revive())
        begin(thread)

    worker = Worker("under test", step, SystemClock())
    started.append(worker)
    monkeypatch.setattr(threading.Thread, "start", revive_first)
    worker.start()
    step.wait_for(1)
    assert ([False], False) == (revived, worker.revive())
