"""Group commit: while one group of instances is committed, the next group is collected.

A group adds no delay, and the cost of each instance falls with the number of instances that arrive at the same time.

A commit on another thread needs two switches of threads, which take longer than the commit of a few small instances.
So small groups are committed inline, in the network thread: an instance of the only connection at once, and a group of
small instances after the loop has processed all received data. A commit that would wait for the ledger, and every
commit after a slow one, is done on the commit thread: a disk that hangs stops the loop once at most.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeAlias

from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.net.storage_scp import Deliver

_Waiting: TypeAlias = tuple[ReceivedInstance, Any]  # an instance and its ticket
_Group: TypeAlias = tuple[list[_Waiting], list[Callable[[], None]]]  # functions to call after the commit
Commit: TypeAlias = Callable[[Sequence[ReceivedInstance]], Sequence[StoreResult]]
CommitInline: TypeAlias = Callable[[Sequence[ReceivedInstance], float], "Sequence[StoreResult] | None"]

# Larger groups are committed on the commit thread: while the disk writes them, the loop receives the next instances.
INLINE_BYTES = 256 << 10
# Limit of the last commit, after which the next one is inline: of the only connection, and of a group of several
ALONE_SECONDS, GROUP_SECONDS = 0.1, 0.002


class GroupCommit:
    """Commits instances on a separate thread, or inline. Not thread-safe: used by the network thread only."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        commit: Commit,
        deliver: Deliver,
        commit_inline: CommitInline,
        *,
        may_commit_inline: Callable[[], bool],
    ) -> None:
        """`commit` is called on the commit thread, and must not raise. The other functions are called in the loop.

        `commit_inline` is called only if no commit is waiting or in progress. It returns None, and commits nothing, if
        that would take long, or if the last commit took longer than the given seconds. It is called for an instance of
        any size if `may_commit_inline()` returns True, because no other sender has to wait then.
        """
        self._loop = loop
        self._commit = commit
        self._deliver = deliver
        self._commit_inline = commit_inline
        self._may_commit_inline = may_commit_inline
        self._waiting: list[_Waiting] = []
        self._following: list[Callable[[], None]] = []  # functions to call after the commit of these instances
        self._is_due = False  # a commit of a group is scheduled or in progress
        self._groups: SimpleQueue[_Group | None] = SimpleQueue()  # None ends the commit thread
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def put(self, received: ReceivedInstance, ticket: Any) -> StoreResult | None:
        """Commit the instance inline and return its result, or return None if the result will be delivered later."""
        if not self._is_due:
            if self._may_commit_inline():
                results = self._commit_inline([received], ALONE_SECONDS)
                if results is not None:
                    return results[0]
            self._is_due = True
            self._loop.call_soon(self._begin_group)  # after the loop has processed all received data
        self._waiting.append((received, ticket))
        return None

    def call_after(self, function: Callable[[], None]) -> None:
        """Call `function`, on any thread, when all instances that were put until now are committed or refused."""
        if self._is_due:
            self._following.append(function)
        else:
            function()

    def close(self) -> None:
        """Wait until the current group is committed, and stop the thread."""
        self._groups.put(None)
        self._thread.join()
        for function in self._following:  # instances that still wait are never committed
            function()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _begin_group(self) -> None:
        if not (self._is_small() and self._commit_group_inline()):
            self._start_group()

    def _is_small(self) -> bool:
        return sum(received.size_bytes for received, _ticket in self._waiting) <= INLINE_BYTES

    def _commit_group_inline(self) -> bool:
        """Commit the waiting instances in the loop. Return False, and commit nothing, if that would take long."""
        group, following = self._waiting, self._following
        results = self._commit_inline([received for received, _ticket in group], GROUP_SECONDS) if group else []
        if results is None:
            return False
        self._waiting, self._following, self._is_due = [], [], False
        for function in following:
            function()
        self._deliver(_answers(group, results))
        return True

    def _start_group(self) -> None:
        self._groups.put((self._waiting, self._following))
        self._waiting, self._following = [], []

    def _run(self) -> None:
        while (entry := self._groups.get()) is not None:
            group, following = entry
            results = self._commit([received for received, _ticket in group]) if group else []
            for function in following:
                function()
            answers = _answers(group, results)
            with suppress(RuntimeError):  # the loop is closed: no connection waits for the results
                self._loop.call_soon_threadsafe(self._committed, answers)

    def _committed(self, answers: list[tuple[Any, StoreResult]]) -> None:
        self._is_due = bool(self._waiting or self._following)
        if self._is_due:
            if self._is_small():
                self._loop.call_soon(self._begin_group)  # an inline commit must not delay these answers
            else:
                self._start_group()
        self._deliver(answers)


def _answers(group: Sequence[_Waiting], results: Sequence[StoreResult]) -> list[tuple[Any, StoreResult]]:
    return [(ticket, result) for (_received, ticket), result in zip(group, results, strict=True)]
