"""The clock that the service reads during a run of the fault harness."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from random import Random

from faults.clock import ClockRange, ServiceClock

PRINT_TIME = "import time, sys; sys.stdout.write(f'{time.time()} {time.time_ns()}')"


def test_a_step_changes_the_system_time_of_the_service(tmp_path: Path) -> None:
    """Verified to fail without `stepped_clock` in PYTHONPATH."""
    clock = ServiceClock(tmp_path / "clock", Random(1))
    clock.step()
    before = time.time()
    printed = subprocess.run([clock.python, "-c", PRINT_TIME], stdout=subprocess.PIPE, check=True, text=True).stdout
    seconds, nanoseconds = printed.split()
    for shown in (float(seconds), int(nanoseconds) / 1e9):
        assert not before <= shown <= time.time()


def test_the_range_is_zero_without_steps(tmp_path: Path) -> None:
    clock = ServiceClock(tmp_path / "clock", Random(1))
    clock.set_for_start()
    assert ClockRange() == clock.range


def test_the_range_contains_the_offset_at_a_start(tmp_path: Path) -> None:
    """The clock of a running service follows a step slowly, but a starting service begins with the whole offset."""
    clock = ServiceClock(tmp_path / "clock", Random(1))
    clock.set_for_start()
    clock.step()
    stepped = clock.range
    assert stepped.behind < 1
    assert stepped.ahead < 1
    for _start in range(20):
        clock.set_for_start()
    assert clock.range.behind > stepped.behind
    assert clock.range.ahead > stepped.ahead
