"""Commit instances in groups: while one group is committed, the next one gathers.

There is no delay: the more instances arrive at the same time, the less each commit costs. A lone instance is committed
inline, in the network thread, if no other connection is open: without two changes of threads, a lone sender is a
quarter faster. If it would have to wait for the ledger, it is queued as all others are.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeAlias

from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.flow.store.received_instance import ReceivedInstance
from dicom_adapter.net.connection import Deliver

_Waiting: TypeAlias = tuple[ReceivedInstance, Any]  # with its ticket
Commit: TypeAlias = Callable[[Sequence[ReceivedInstance]], Sequence[StoreResult]]
CommitInline: TypeAlias = Callable[[ReceivedInstance], "StoreResult | None"]


class GroupCommit:
    """Not thread-safe: used by the network thread. Commits on a thread of its own, or inline."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        commit: Commit,
        deliver: Deliver,
        commit_inline: CommitInline,
        *,
        may_commit_inline: Callable[[], bool],
    ) -> None:
        """`commit` is called on the commit thread, and must not raise; all others are called in the loop.

        `commit_inline` returns None for an instance that has to wait for the ledger. It is called only if nothing else
        waits or is being committed, and `may_commit_inline()`: no other sender has to wait for it.
        """
        self._loop = loop
        self._commit = commit
        self._deliver = deliver
        self._commit_inline = commit_inline
        self._may_commit_inline = may_commit_inline
        self._waiting: list[_Waiting] = []
        self._is_due = False  # a group is about to be committed, or is being committed
        self._groups: SimpleQueue[list[_Waiting] | None] = SimpleQueue()  # None: the end
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def put(self, received: ReceivedInstance, ticket: Any) -> StoreResult | None:
        """Commit it inline and return its result, or return None: the result is delivered with `ticket` later."""
        if not self._is_due:
            if self._may_commit_inline():
                result = self._commit_inline(received)
                if result is not None:
                    return result
            self._is_due = True
            self._loop.call_soon(self._start_group)  # after all data that has been received already
        self._waiting.append((received, ticket))
        return None

    def close(self) -> None:
        """Wait until the current group is committed, and stop the thread."""
        self._groups.put(None)
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _start_group(self) -> None:
        group, self._waiting = self._waiting, []
        self._groups.put(group)

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            results = self._commit([received for received, _ticket in group])
            answered = [(ticket, result) for (_received, ticket), result in zip(group, results, strict=True)]
            with suppress(RuntimeError):  # the loop is closed: no connection waits for the answers
                self._loop.call_soon_threadsafe(self._committed, answered)

    def _committed(self, answered: list[tuple[Any, StoreResult]]) -> None:
        self._is_due = bool(self._waiting)
        if self._is_due:
            self._start_group()
        self._deliver(answered)
