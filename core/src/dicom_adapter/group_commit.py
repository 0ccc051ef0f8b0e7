"""Commits everything that waits together: while one group is committed, the next one gathers.

There is no delay: a lone instance is committed at once, and the more come at the same time, the less each costs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from dicom_adapter.flow.store import Answer, Arrival

MOST = 512  # instances in a group: the first of them must not wait for long

Waiting: TypeAlias = tuple[Arrival, Any]  # and whatever tells whom to answer
Commit: TypeAlias = Callable[[Sequence[Arrival]], Sequence[Answer]]
Deliver: TypeAlias = Callable[[Sequence[tuple[Any, Answer]]], None]


class GroupCommit:
    """A thread, from `start` to `close`."""

    def __init__(self, commit: Commit, deliver: Deliver) -> None:
        """`commit` must not raise; `deliver` is called on the thread, once for a group."""
        self._commit = commit
        self._deliver = deliver
        self._waiting: SimpleQueue[Waiting | None] = SimpleQueue()  # None: the end
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def put(self, arrival: Arrival, ticket: Any) -> None:
        """Let it be committed; `ticket` comes back with its answer. Returns at once."""
        self._waiting.put((arrival, ticket))

    def close(self) -> None:
        """Return when all that waits is committed."""
        self._waiting.put(None)
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            group, is_last = self._gather(first)
            answers = self._commit([arrival for arrival, _ticket in group])
            self._deliver([(ticket, answer) for (_arrival, ticket), answer in zip(group, answers, strict=True)])
            if is_last:
                return

    def _gather(self, first: Waiting) -> tuple[list[Waiting], bool]:
        """All that waits by now, and whether that is the end."""
        group = [first]
        try:
            while len(group) < MOST:
                following = self._waiting.get_nowait()
                if following is None:
                    return group, True
                group.append(following)
        except Empty:
            pass
        return group, False
