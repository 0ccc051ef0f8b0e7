"""The waiting groups that operators see."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any

from dicom_adapter import InstanceStorageInfo, JobProcessorBase, NoSettings, Waiting
from dicom_adapter.api import processor as api

NOON = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)


def group(label: str, minutes: int | None = None, problem: str = "") -> Waiting:
    until = None if minutes is None else NOON + timedelta(minutes=minutes)
    return Waiting(label=label, instance_count=1, until=until, problem=problem)


class WaitingProcessor(JobProcessorBase[NoSettings]):
    """Processor whose waiting groups are given."""

    name = "waiting-groups"

    def __init__(self, groups: Iterable[Waiting]) -> None:  # the context is not used
        self.groups = groups

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        raise NotImplementedError

    def waiting(self) -> Iterable[Waiting]:
        return self.groups


def soonest(limit: int, *groups: Waiting) -> tuple[int, list[str]]:
    number, shown = WaitingProcessor(groups).waiting_soonest(limit)
    return number, [one.label for one in shown]


def test_groups_with_a_problem_are_shown_first_then_those_that_are_due_first() -> None:
    """A group without a due time is the last. All groups are counted."""
    groups = [group("cached"), group("late", 9), group("soon", 1), group("broken", 5, "1 C-STORE failed")]
    assert (4, ["broken", "soon", "late", "cached"]) == soonest(50, *groups)
    assert (4, ["broken", "soon"]) == soonest(2, *groups)
    assert (0, []) == soonest(2)


def test_the_groups_of_an_endless_generator_are_limited(monkeypatch: Any) -> None:
    """The lane does not read them for ever."""
    monkeypatch.setattr(api, "MAX_GROUPS", 100)
    number, shown = WaitingProcessor(group(str(one), one) for one in count()).waiting_soonest(3)
    assert (100, ["0", "1", "2"]) == (number, [one.label for one in shown])
