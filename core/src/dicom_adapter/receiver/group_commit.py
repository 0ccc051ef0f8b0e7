"""Commits everything that waits together: while one group is committed, the next one gathers.

There is no delay: a lone instance is committed at once, and the more come at the same time, the less each costs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeAlias

from dicom_adapter.flow.store.arrival import Arrival
from dicom_adapter.flow.store.incoming import Answer
from dicom_adapter.net.connection import Deliver

Waiting: TypeAlias = tuple[Arrival, Any]  # and whatever tells whom to answer
Commit: TypeAlias = Callable[[Sequence[Arrival]], Sequence[Answer]]


class GroupCommit:
    """Used in the loop; commits on a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, commit: Commit, deliver: Deliver) -> None:
        """`commit` is called on the thread, and must not raise; `deliver` is called in the loop."""
        self._loop = loop
        self._commit = commit
        self._deliver = deliver
        self._waiting: list[Waiting] = []
        self._is_due = False  # a group is about to go, or under way
        self._groups: SimpleQueue[list[Waiting] | None] = SimpleQueue()  # None: the end
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def put(self, arrival: Arrival, ticket: Any) -> None:
        """Let it be committed; `ticket` comes back with its answer."""
        self._waiting.append((arrival, ticket))
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._go)  # behind all that has just come in

    def close(self) -> None:
        """Return when the group that is under way is committed."""
        self._groups.put(None)
        self._thread.join()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, and nothing is under way."""
        return not self._is_due

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _go(self) -> None:
        group, self._waiting = self._waiting, []
        self._groups.put(group)

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            answers = self._commit([arrival for arrival, _ticket in group])
            answered = [(ticket, answer) for (_arrival, ticket), answer in zip(group, answers, strict=True)]
            with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(self._committed, answered)

    def _committed(self, answered: list[tuple[Any, Answer]]) -> None:
        self._is_due = bool(self._waiting)
        if self._is_due:
            self._go()
        self._deliver(answered)
