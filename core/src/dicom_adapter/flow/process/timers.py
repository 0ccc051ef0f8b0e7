"""Step 4 (`process`) of the flow: the timers of one processor."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import count

from attrs import define, field

LATEST_TIMER = datetime(2200, 1, 1, tzinfo=timezone.utc)  # threads cannot wait longer than 292 years


@define(order=True)
class Alarm:
    """A callback at a time. Alarms that are due at the same time are called in the order in which they were set."""

    due: datetime  # time of the clock at which the host calls the callback
    number: int  # position in the order in which the alarms were set
    when: datetime = field(order=False)  # time that the processor asked for; later than `due` if the clock was put back
    callback: Callable[[], None] | None = field(order=False)

    def cancel(self) -> None:
        self.callback = None


class Timers:
    """The alarms of one processor, the next due one first. Not thread-safe: used by the lane thread only."""

    def __init__(self) -> None:
        self._heap: list[Alarm] = []
        self._numbers = count()

    def set(self, when: datetime, due: datetime, callback: Callable[[], None]) -> Alarm:
        alarm = Alarm(due, next(self._numbers), when, callback)
        heapq.heappush(self._heap, alarm)
        return alarm

    def first(self) -> Alarm | None:
        """Return the next alarm that was not cancelled, without removing it."""
        while self._heap and self._heap[0].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def pop(self) -> Alarm:
        """Remove and return the alarm that `first` returned."""
        return heapq.heappop(self._heap)
