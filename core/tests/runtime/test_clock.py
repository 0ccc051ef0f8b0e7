"""The clock of a service, which does not follow steps of the system clock, but approaches it slowly."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from dicom_adapter.ledger.health import PartState
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.clock_check import ClockCheck
from dicom_adapter.runtime.watch import PartFinding

SECOND_NS = 1_000_000_000
START = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
TOLERANCE = timedelta(milliseconds=2)


class Machine:
    """The clocks of a machine."""

    def __init__(self) -> None:
        self.system_ns = int(START.timestamp()) * SECOND_NS
        self.monotonic_ns = 12 * SECOND_NS

    def clock(self, reading: tuple[int, int] | None = None) -> SystemClock:
        return SystemClock(reading, lambda: self.system_ns, lambda: self.monotonic_ns)

    def run(self, seconds: float) -> None:
        self.system_ns += round(seconds * SECOND_NS)
        self.monotonic_ns += round(seconds * SECOND_NS)

    def step(self, by: timedelta) -> None:
        self.system_ns += round(by.total_seconds() * SECOND_NS)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_the_clock_without_steps_is_the_system_clock(machine: Machine) -> None:
    clock = machine.clock()
    for seconds in (0.000001, 1, 3600, 86400):
        machine.run(seconds)
        assert clock.system_time() == clock.now()
    assert START + timedelta(seconds=86400 + 3600 + 1, microseconds=1) == clock.now()


@pytest.mark.parametrize(("step", "rate"), [(-HOUR, 0.9), (HOUR, 1.1)])
def test_a_step_of_the_system_clock_changes_only_the_rate(machine: Machine, step: timedelta, rate: float) -> None:
    """A wait is a tenth longer or shorter until both clocks agree, which takes ten times the step.

    Verified to fail with a clock that returns the system time.
    """
    clock = machine.clock()
    machine.step(step)
    assert START == clock.now()
    machine.run(60)
    assert abs(START + timedelta(seconds=60 * rate) - clock.now()) < TOLERANCE
    assert START + step + timedelta(seconds=60) == clock.system_time()
    for _minute in range(10 * 60 - 1):
        assert abs(clock.now() - clock.system_time()) > TOLERANCE
        machine.run(60)
    assert abs(clock.now() - clock.system_time()) < TOLERANCE
    machine.run(1)
    assert clock.now() == clock.system_time()


@given(st.lists(st.tuples(st.integers(0, 10**8) | st.integers(0, 10**13), st.integers(-(10**13), 10**13))))
def test_no_sequence_of_steps_puts_the_clock_back_or_makes_a_wait_much_longer(changes: list[tuple[int, int]]) -> None:
    """The clock advances by 90 to 110 % of the elapsed time, however the system clock is set in between.

    Verified to fail when the correction has no limit.
    """
    machine = Machine()
    clock = machine.clock()
    times = [clock.now()]
    for elapsed, step in changes:
        machine.monotonic_ns += elapsed
        machine.system_ns += elapsed + step
        times.append(clock.now())
    for (before, after), (elapsed, _step) in zip(pairwise(times), changes, strict=True):
        passed = (after - before) / timedelta(microseconds=1)  # rounded; `elapsed` has nanoseconds
        assert 0.9 * elapsed / 1000 - 2 <= passed <= 1.1 * elapsed / 1000 + 2
        assert after >= before


def test_other_processes_continue_the_clock(machine: Machine) -> None:
    """A process that starts after a step has the same time as a process that started before the step.

    Verified to fail when the reading is not passed on.
    """
    clock = machine.clock()
    machine.step(-HOUR)
    reading = clock.reading()
    machine.run(5)
    other = machine.clock(reading)
    assert abs(clock.now() - other.now()) < TOLERANCE
    assert abs(clock.ahead() - other.ahead()) < TOLERANCE
    assert START - HOUR + timedelta(seconds=5) == machine.clock().now()


def test_an_interrupted_reading_is_repeated(machine: Machine) -> None:
    """An interruption between the readings of both clocks is not a step."""
    delays = [3 * SECOND_NS, 3 * SECOND_NS, 0, 0]

    def system_ns() -> int:
        machine.run((delays.pop(0) if delays else 0) / SECOND_NS)
        return machine.system_ns

    clock = SystemClock(None, system_ns, lambda: machine.monotonic_ns)
    assert timedelta(0) == clock.ahead()


# --- steps, for operators -------------------------------------------------------------------------------------------


def test_a_step_is_logged_once_and_reported_until_the_clocks_agree(machine: Machine) -> None:
    """Verified to fail when the finding is OK as soon as the step is logged."""
    check = ClockCheck(machine.clock())
    with capture_logs() as logged:
        assert PartFinding() == check.examine()
        machine.run(1)
        machine.step(-HOUR)
        first = check.examine()
        machine.run(1)
        second = check.examine()
        machine.run(36000)
        last = check.examine()
    assert [{"event": "clock_stepped", "seconds": -3600.0, "log_level": "warning"}] == logged
    assert [PartState.DEGRADED, PartState.DEGRADED, PartState.OK] == [
        finding.state for finding in (first, second, last)
    ]
    assert first.reason.startswith(
        "the system clock was put back: the clock of the service is 3600 s ahead of it, and runs a tenth slower"
    )


@pytest.mark.parametrize(
    ("step", "words"), [(2.0, "put forward: the clock of the service is 2 s behind it"), (0.5, "")]
)
def test_only_steps_that_matter_are_reported(machine: Machine, step: float, words: str) -> None:
    """Corrections below a second, as NTP makes them, are neither logged nor reported."""
    check = ClockCheck(machine.clock())
    check.examine()
    with capture_logs() as logged:
        machine.step(timedelta(seconds=step))
        finding = check.examine()
    assert bool(words) == bool(logged)
    assert words in finding.reason


def test_pauses_of_the_check_do_not_look_like_steps(machine: Machine) -> None:
    """The difference corrected since the last examination is not a step, however long ago the examination was."""
    check = ClockCheck(machine.clock())
    machine.step(-HOUR)
    check.examine()
    with capture_logs() as logged:
        for seconds in (1, 60, 20000):
            machine.run(seconds)
            check.examine()
    assert [] == logged
