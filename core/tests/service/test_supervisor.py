"""What the service knows of its processes."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from dicom_adapter.service import supervisor
from dicom_adapter.service.supervisor import HEALTHY_SECONDS, LONGEST_PAUSE, ProcessSlot


class Life:
    """A process that lives and dies when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slot = ProcessSlot("host", "module")
        monkeypatch.setattr(supervisor.time, "monotonic", lambda: self.now)

    def live(self, seconds: float) -> None:
        child: Any = Mock()
        self.slot.child, self.slot.started_at = child, self.now
        self.now += seconds

    def die(self) -> None:
        self.slot.died(-9)


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> Life:
    return Life(monkeypatch)


def test_a_process_that_dies_again_and_again_is_trouble_until_it_lives_long_enough(life: Life) -> None:
    """From the third death in a row on; what died of old age has died once."""
    for _death in range(2):
        life.live(1)
        life.die()
        assert "" == life.slot.problem()
    life.live(1)
    life.die()
    assert "the host died 3 times in a row, the last time with status -9" == life.slot.problem()
    life.live(HEALTHY_SECONDS)
    assert life.slot.problem()
    life.now += 0.1
    assert "" == life.slot.problem()
    life.die()
    assert "" == life.slot.problem()


def test_pauses_grow_while_it_dies_and_begin_anew_when_it_was_healthy(life: Life) -> None:
    """From a second to half a minute."""
    pauses = []
    for seconds in [1.0] * 7 + [HEALTHY_SECONDS + 1]:
        life.live(seconds)
        life.die()
        pauses.append(life.slot.pause)
    assert [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE, 0.5] == pauses
