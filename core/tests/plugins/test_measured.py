"""What is called of plugins is measured, and told when it is slow or when everything is."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
from attrs import frozen
from structlog.testing import capture_logs

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.ledger.health import PartState
from dicom_adapter.plugins.measured import (
    KEPT,
    REMEMBERED_SECONDS,
    SLOW_SECONDS,
    TELL_EVERY_SECONDS,
    Called,
    Calls,
    Maker,
    measure,
)
from dicom_adapter.runtime.parts import lane_part
from dicom_adapter.runtime.watch import PartFinding, with_slow

LIMIT = SLOW_SECONDS["handle_instance"]


class Time:
    """A clock that calls move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float) -> Callable[[], str]:
        """A function that takes so long."""

        def function() -> str:
            self.now += seconds
            return "answer"

        return function


@pytest.fixture
def time() -> Time:
    return Time()


def tracing(time: Time, *, trace: bool = False) -> tuple[Calls, Called]:
    calls = Calls(trace=trace, monotonic=time)
    calls.tell()
    return calls, calls.of("plugin 'x' of acme-x 1.0", lane_part("LUNG"))


def test_a_slow_call_is_logged_and_shown_with_plugin_and_hook(time: Time) -> None:
    """And what it answers is the caller's."""
    calls, called = tracing(time)
    with capture_logs() as logged:
        assert "answer" == called("handle_instance", time.taking(LIMIT + 0.25))
    assert [
        {
            "event": "hook_slow",
            "log_level": "warning",
            "plugin": "plugin 'x' of acme-x 1.0",
            "hook": "handle_instance",
            "part": "AE title LUNG",
            "seconds": LIMIT + 0.25,
            "limit": LIMIT,
            "times": 1,
        }
    ] == logged
    expected = "handle_instance of plugin 'x' of acme-x 1.0 took up to 1.2 s, more than 1 s, once of late"
    assert {lane_part("LUNG"): expected} == calls.slow()


def test_a_call_in_time_is_not_told_of(time: Time) -> None:
    """Neither in the log nor in `status`."""
    calls, called = tracing(time)
    with capture_logs() as logged:
        called("handle_instance", time.taking(LIMIT))
    assert ([], {}) == (logged, calls.slow())


def test_what_is_slow_all_the_time_is_logged_once_a_minute(time: Time) -> None:
    """With how often it was, so that the log does not fill up. Tried: a line for each."""
    calls, called = tracing(time)
    with capture_logs() as logged:
        for _number in range(3):
            called("handle_instance", time.taking(LIMIT + 1))
        time.now += TELL_EVERY_SECONDS
        called("handle_instance", time.taking(LIMIT + 2))
    assert [1, 3] == [entry["times"] for entry in logged]
    assert "took up to 3.0 s, more than 1 s, 4 times of late" in calls.slow()[lane_part("LUNG")]


def test_what_was_slow_once_is_forgotten(time: Time) -> None:
    """`status` is green again, and counts anew."""
    calls, called = tracing(time)
    called("handle_instance", time.taking(LIMIT + 9))
    time.now += REMEMBERED_SECONDS + 1
    assert {} == calls.slow()
    called("handle_instance", time.taking(LIMIT + 1))
    assert "took up to 2.0 s, more than 1 s, once of late" in calls.slow()[lane_part("LUNG")]


def test_every_call_is_logged_with_its_outcome_when_that_is_asked_for(time: Time) -> None:
    """What it raised, by kind and place and without its message, which may quote a patient."""
    _calls, called = tracing(time, trace=True)
    with capture_logs() as logged:
        called("open", time.taking(0.5))
        with pytest.raises(ZeroDivisionError):
            called("close", lambda: 1 / 0)
    assert [("hook_called", "open", 0.5, "returned")] == [_told(entry) for entry in logged[:1]]
    assert logged[1]["outcome"].startswith("ZeroDivisionError at ")
    assert "division by zero" not in str(logged)


def _told(entry: object) -> tuple[object, ...]:
    assert isinstance(entry, dict)
    return entry["event"], entry["hook"], entry["seconds"], entry["outcome"]


def test_what_happens_before_logging_is_set_up_is_told_afterwards(time: Time) -> None:
    """Plugins are loaded before the configuration says how to log; the newest are kept."""
    calls = Calls(trace=True, monotonic=time)
    called = calls.of("plugin 'x'", "plugins")
    with capture_logs() as logged:
        for number in range(KEPT + 1):
            called(f"load {number}", time.taking(0))
        assert [] == logged
        calls.tell()
    assert ("load 1", KEPT) == (logged[0]["hook"], len(logged))


class Plain:
    """Something that a plugin brings."""

    made: ClassVar[int] = 0

    def __init__(self, answer: int) -> None:
        self.answer = answer
        type(self).made += 1

    def work(self, more: int, *, most: int) -> int:
        return min(self.answer + more, most)

    def call_at(self, _when: object, callback: Callable[[], object]) -> Callable[[], object]:
        return callback


def test_an_object_is_measured_in_its_methods_and_its_class_stays_what_it_is(time: Time) -> None:
    """What it is given to call later is measured too. Tried: a measured subclass, and `type(self)` was another."""
    _calls, called = tracing(time, trace=True)
    before = Plain.made
    with capture_logs() as logged:
        made = Maker(Plain, called, ["work"], ["call_at"])(1)
        assert 3 == made.work(2, most=9)
        assert "answer" == made.call_at(None, time.taking(0))()
    assert ["__init__", "work", "timer"] == [entry["hook"] for entry in logged]
    assert (Plain, before + 1) == (type(made), Plain.made)


def test_an_object_that_refuses_to_be_changed_is_measured_too(time: Time) -> None:
    """A frozen attrs class; and what an object has put in the place of a method stays."""

    @frozen(slots=False)
    class Frozen:
        own: Callable[[], str]

        def work(self) -> str:
            return "worked"

    _calls, called = tracing(time, trace=True)
    with capture_logs() as logged:
        made = measure(Frozen(lambda: "its own"), called, ["own", "work"])
        assert ("its own", "worked") == (made.own(), made.work())
    assert ["work"] == [entry["hook"] for entry in logged]


def test_what_measures_does_not_show_among_the_places_of_an_error(time: Time) -> None:
    """There are three of them, which are worth more. Tried: all frames."""
    with pytest.raises(ZeroDivisionError) as caught:
        tracing(time)[1]("work", lambda: 1 / 0)
    assert " measured.py:" not in describe_failure(caught.value)


def test_a_part_that_works_is_degraded_while_a_plugin_is_slow_in_it() -> None:
    """One that fails or hangs stays what it is, which is worse."""
    hanging = PartFinding(state=PartState.HANGS, reason="hangs")
    a, b, c = map(lane_part, "ABC")
    found = with_slow({a: PartFinding(), b: hanging, c: PartFinding()}, {a: "slow", b: "slow"})
    assert {a: PartFinding(state=PartState.DEGRADED, reason="slow"), b: hanging, c: PartFinding()} == found
