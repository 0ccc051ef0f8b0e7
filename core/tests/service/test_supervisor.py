"""Restarts of a process by the supervisor: reported problems and pauses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from dicom_adapter.service import process_slot
from dicom_adapter.service.process_slot import HEALTHY_SECONDS, LONGEST_PAUSE, ProcessSlot


class FakeProcess:
    """A process that runs and dies when the test decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str = "host") -> None:
        self.now = 1000.0
        self.slot = ProcessSlot(name, "module")
        monkeypatch.setattr(process_slot.time, "monotonic", lambda: self.now)

    def run(self, seconds: float) -> None:
        child: Any = Mock()
        self.slot.child, self.slot.started_at = child, self.now
        self.now += seconds

    def die(self) -> None:
        self.slot.record_death(-9)

    def pauses(self, runs: Sequence[float]) -> list[float]:
        """Return the pause after each of these runs, in seconds."""
        pauses = []
        for seconds in runs:
            self.run(seconds)
            self.die()
            pauses.append(self.slot.pause)
        return pauses


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    return FakeProcess(monkeypatch)


def test_a_process_that_dies_repeatedly_is_a_problem_until_it_runs_long_enough(process: FakeProcess) -> None:
    """The problem is reported from the third early death in a row on. A death after a long run restarts the count."""
    for _death in range(2):
        process.run(1)
        process.die()
        assert "" == process.slot.problem()
    process.run(1)
    process.die()
    assert "the host died 3 times in a row, the last time with status -9" == process.slot.problem()
    process.run(HEALTHY_SECONDS)
    assert process.slot.problem()
    process.now += 0.1
    assert "" == process.slot.problem()
    process.die()
    assert "" == process.slot.problem()


def test_pauses_grow_with_each_death_until_the_process_was_healthy(process: FakeProcess) -> None:
    """Each early death doubles the pause of half a second, up to half a minute. A long run resets the pause."""
    pauses = process.pauses([1.0] * 7 + [HEALTHY_SECONDS + 1])
    assert [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE, 0.5] == pauses


@pytest.mark.parametrize("name", ["receiver", "receiver 2"])
def test_the_pause_of_a_receiver_is_short(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """If each instance of one sender kills the receiver, the other senders must still find a receiver most of the time.

    Verified to fail with the longest pause of the host.
    """
    pauses = FakeProcess(monkeypatch, name).pauses([1.0] * 5)
    assert [1.0, 2.0, 4.0, 4.0, 4.0] == pauses
