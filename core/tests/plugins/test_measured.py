"""Calls of plugins are measured: slow calls are logged and shown, and all calls are logged on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
from attrs import frozen
from structlog.testing import capture_logs

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.ledger.health import PartState
from dicom_adapter.plugins.measured import (
    LOG_EVERY_SECONDS,
    MAX_BUFFERED,
    REMEMBERED_SECONDS,
    SLOW_SECONDS,
    CallStatistics,
    MeasuredCaller,
    MeasuredFactory,
    measure,
    unwrap,
)
from dicom_adapter.runtime.parts import lane_part
from dicom_adapter.runtime.watch import PartFinding, with_slow

LIMIT = SLOW_SECONDS["handle_instance"]
PLUGIN = "plugin 'x' of acme-x 1.0"
LUNG = lane_part("LUNG")


class Time:
    """A clock that the measured functions advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float) -> Callable[[], str]:
        """Return a function that takes `seconds`."""

        def function() -> str:
            self.now += seconds
            return "answer"

        return function


@pytest.fixture
def time() -> Time:
    return Time()


def make_caller(time: Time, *, trace: bool = False) -> tuple[CallStatistics, MeasuredCaller]:
    statistics = CallStatistics(trace=trace, monotonic=time)
    statistics.flush_log()
    return statistics, statistics.caller(PLUGIN, LUNG)


def test_a_slow_call_is_logged_and_shown_with_plugin_and_hook(time: Time) -> None:
    """The caller gets the result of the call."""
    statistics, caller = make_caller(time)
    with capture_logs() as logged:
        assert "answer" == caller("handle_instance", time.taking(LIMIT + 0.25))
    assert [
        {
            "event": "hook_slow",
            "log_level": "warning",
            "plugin": PLUGIN,
            "hook": "handle_instance",
            "part": str(LUNG),
            "seconds": LIMIT + 0.25,
            "limit": LIMIT,
            "times": 1,
        }
    ] == logged
    expected = "handle_instance of plugin 'x' of acme-x 1.0 took up to 1.2 s, more than 1 s, once recently"
    assert {LUNG: expected} == statistics.slow_calls()


def test_a_call_within_the_limit_is_not_reported(time: Time) -> None:
    """The call appears neither in the log nor in `status`."""
    statistics, caller = make_caller(time)
    with capture_logs() as logged:
        caller("handle_instance", time.taking(LIMIT))
    assert ([], {}) == (logged, statistics.slow_calls())


def test_frequent_slow_calls_are_logged_once_a_minute(time: Time) -> None:
    """The line has the number of calls.

    Verified to fail when each call logs a line.
    """
    statistics, caller = make_caller(time)
    with capture_logs() as logged:
        for _number in range(3):
            caller("handle_instance", time.taking(LIMIT + 1))
        time.now += LOG_EVERY_SECONDS
        caller("handle_instance", time.taking(LIMIT + 2))
    assert [1, 3] == [entry["times"] for entry in logged]
    assert "took up to 3.0 s, more than 1 s, 4 times recently" in statistics.slow_calls()[LUNG]


def test_a_slow_call_is_not_reported_after_a_while(time: Time) -> None:
    """The part is ok again, and counting starts from zero."""
    statistics, caller = make_caller(time)
    caller("handle_instance", time.taking(LIMIT + 9))
    time.now += REMEMBERED_SECONDS + 1
    assert {} == statistics.slow_calls()
    caller("handle_instance", time.taking(LIMIT + 1))
    assert "took up to 2.0 s, more than 1 s, once recently" in statistics.slow_calls()[LUNG]


def test_every_call_is_logged_with_its_outcome_on_request(time: Time) -> None:
    """An exception is logged by type and location, without its message, which may contain patient data."""
    _statistics, caller = make_caller(time, trace=True)
    with capture_logs() as logged:
        caller("open", time.taking(0.5))
        with pytest.raises(ZeroDivisionError):
            caller("close", lambda: 1 / 0)
    returned, raised = logged
    shown = ("event", "hook", "seconds", "outcome")
    assert ("hook_called", "open", 0.5, "returned") == tuple(returned[field] for field in shown)
    assert raised["outcome"].startswith("ZeroDivisionError at ")
    assert "division by zero" not in str(logged)


def test_calls_before_logging_is_configured_are_logged_afterwards(time: Time) -> None:
    """Plugins are loaded before the configuration of the log is known. The newest lines are kept."""
    statistics = CallStatistics(trace=True, monotonic=time)
    caller = statistics.caller("plugin 'x'", LUNG)
    with capture_logs() as logged:
        for number in range(MAX_BUFFERED + 1):
            caller(f"load {number}", time.taking(0))
        assert [] == logged
        statistics.flush_log()
    assert ("load 1", MAX_BUFFERED) == (logged[0]["hook"], len(logged))


class Plain:
    """An object of a plugin."""

    constructed: ClassVar[int] = 0

    def __init__(self, answer: int) -> None:
        self.answer = answer
        type(self).constructed += 1

    def work(self, more: int, *, most: int) -> int:
        return min(self.answer + more, most)

    def work_twice(self) -> int:
        return self.work(1, most=9) + self.work(1, most=9)


def test_the_methods_of_an_object_are_measured_and_the_object_is_not_changed(time: Time) -> None:
    """Only calls from outside are measured.

    Verified to fail when the measured object is of a subclass (which changes `type(self)`).
    """
    _statistics, caller = make_caller(time, trace=True)
    before = Plain.constructed
    with capture_logs() as logged:
        measured = MeasuredFactory(Plain, caller, ["work"])(1)
        assert 3 == measured.work(2, most=9)
        assert (1, 4) == (measured.answer, measured.work_twice())
    assert ["__init__", "work"] == [entry["hook"] for entry in logged]
    target = unwrap(measured)
    assert (Plain, {"answer": 1}, before + 1) == (type(target), vars(target), Plain.constructed)
    assert target is unwrap(target)


def test_attributes_that_are_set_reach_the_object(time: Time) -> None:
    """The proxy itself has no state."""
    target = Plain(1)
    measured = measure(target, make_caller(time)[1], ["work"])
    measured.answer = 5
    assert 5 == target.answer


def test_a_method_that_is_replaced_in_the_class_is_replaced_in_the_proxy(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests replace methods of classes that have instances already.

    Verified to fail when methods are bound when the proxy is created.
    """
    measured = measure(Plain(1), make_caller(time)[1], ["work"])
    monkeypatch.setattr(Plain, "work", lambda _self, _more, *, most: most)
    assert 9 == measured.work(2, most=9)


def test_an_object_that_cannot_be_changed_is_measured_too(time: Time) -> None:
    """The object is of a frozen class with slots.

    Verified to fail when measuring methods are set on the object.
    """

    @frozen
    class Frozen:
        own: Callable[[], str]

        def work(self) -> str:
            return "worked"

    _statistics, caller = make_caller(time, trace=True)
    with capture_logs() as logged:
        measured = measure(Frozen(lambda: "its own"), caller, ["own", "work"])
        assert ("its own", "worked") == (measured.own(), measured.work())
    assert ["own", "work"] == [entry["hook"] for entry in logged]


def test_the_frames_that_measure_are_not_shown_among_the_locations_of_an_error(time: Time) -> None:
    """An error shows three locations, and those of the plugin matter.

    Verified to fail when all frames are shown.
    """
    measured = measure(Plain(1), make_caller(time)[1], ["work"])
    with pytest.raises(TypeError) as caught:
        measured.work("text", most=9)  # type: ignore[arg-type]
    assert "test_measured.py" in describe_failure(caught.value)
    assert " measured.py:" not in describe_failure(caught.value)


def test_a_part_that_works_is_degraded_while_a_plugin_is_slow_in_it() -> None:
    """A part that fails or hangs keeps its state, which is worse."""
    hanging = PartFinding(state=PartState.HANGS, reason="hangs")
    a, b, c = map(lane_part, "ABC")
    findings = with_slow({a: PartFinding(), b: hanging, c: PartFinding()}, {a: "slow", b: "slow"})
    assert {a: PartFinding(state=PartState.DEGRADED, reason="slow"), b: hanging, c: PartFinding()} == findings
