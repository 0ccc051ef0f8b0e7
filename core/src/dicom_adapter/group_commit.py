"""Commits everything that waits together: while one group is committed, the next one gathers.

There is no delay: a lone instance is committed at once, and the more come at the same time, the less each costs. A
small group is committed in the loop that received it, which is quicker than to have another thread do it and to wait
for it; a group that the disk needs some time for is committed on a thread, while the loop receives what comes next.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeAlias

from dicom_adapter.flow.store import Answer, Arrival

SMALL_BYTES = 1 << 18  # of a group that is committed in the loop

Waiting: TypeAlias = tuple[Arrival, Any]  # and whatever tells whom to answer
Commit: TypeAlias = Callable[[Sequence[Arrival]], Sequence[Answer]]
Deliver: TypeAlias = Callable[[Sequence[tuple[Any, Answer]]], None]


class GroupCommit:
    """Used in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, commit: Commit, deliver: Deliver) -> None:
        """`commit` must not raise, and is called in the loop or on the thread; `deliver` is called in the loop."""
        self._loop = loop
        self._commit = commit
        self._deliver = deliver
        self._waiting: list[Waiting] = []
        self._is_due = False  # the loop is about to look
        self._is_busy = False  # the thread is at work
        self._large: SimpleQueue[list[Waiting] | None] = SimpleQueue()  # None: the end
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def put(self, arrival: Arrival, ticket: Any) -> None:
        """Let it be committed; `ticket` comes back with its answer."""
        self._waiting.append((arrival, ticket))
        if not (self._is_due or self._is_busy):
            self._is_due = True
            self._loop.call_soon(self._look)  # behind all that has just been received

    def close(self) -> None:
        """End the thread, when it has committed what it has. Called when the loop has ended."""
        self._large.put(None)
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _look(self) -> None:
        self._is_due = False
        group, self._waiting = self._waiting, []
        if not group:
            return
        if sum(arrival.size_bytes for arrival, _ticket in group) <= SMALL_BYTES:
            self._deliver(self._answered(group))
        else:
            self._is_busy = True
            self._large.put(group)

    def _answered(self, group: list[Waiting]) -> list[tuple[Any, Answer]]:
        answers = self._commit([arrival for arrival, _ticket in group])
        return [(ticket, answer) for (_arrival, ticket), answer in zip(group, answers, strict=True)]

    def _run(self) -> None:
        while (group := self._large.get()) is not None:
            answered = self._answered(group)
            self._loop.call_soon_threadsafe(self._committed, answered)

    def _committed(self, answered: list[tuple[Any, Answer]]) -> None:
        self._is_busy = False
        self._deliver(answered)
        self._look()
