"""How many may come: connections and associations, overall and of each peer. Lives in the loop of the server.

A connection beyond the limit is closed before anything is made for it; an association beyond the limit is rejected,
which tells its sender to come again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from attrs import frozen

from dicom_adapter.config.listening import DicomConfig

SPARE_CONNECTIONS = 100  # beside the associations: those that have yet to request one, or to close
SPARE_OF_PEER = 10  # the same, for each peer
FULL_SECONDS = 0.25  # that a request waits for somebody else's association to end, when there are as many as may be

Ask = Callable[[int, int], None]  # with how many associations there are, and how many of them are that peer's


@frozen
class _Waiting:
    peer: str
    ask: Ask
    timer: asyncio.TimerHandle


class Admission:
    """Counts. Peers are told apart by their addresses."""

    def __init__(self, dicom: DicomConfig, loop: asyncio.AbstractEventLoop) -> None:
        self.limit(dicom)
        self._loop = loop
        self._connections: Counter[str] = Counter()
        self._associations: Counter[str] = Counter()
        self._waiting: list[_Waiting] = []

    def limit(self, dicom: DicomConfig) -> None:
        """Set the limits; whoever is there already stays."""
        self._most = dicom.max_associations
        self._most_of_peer = dicom.max_associations_per_peer

    # --- connections ------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._connections.total()

    def enter(self, peer: str, *, is_proxy: bool = False) -> str:
        """Take a place for a connection; returns why there is none, "" when it is taken.

        A proxy has as many as there are: whose they are, it says in each of them.
        """
        if self._connections.total() >= self._most + SPARE_CONNECTIONS:
            return f"{self._connections.total()} connections are open"
        of_peer = self._connections[peer]
        if self._most_of_peer is not None and not is_proxy and of_peer >= self._most_of_peer + SPARE_OF_PEER:
            return f"{of_peer} connections are open from this address"
        self._connections[peer] += 1
        return ""

    def leave(self, peer: str) -> None:
        """Give the place back."""
        _subtract(self._connections, peer)

    # --- associations -----------------------------------------------------------------------------------------------

    def when_there_is_room(self, peer: str, ask: Ask) -> None:
        """Call `ask` when fewer associations are open than may be, or when none of them has ended for a moment.

        Senders that open one for every instance are often quicker to ask than the end of the last one is to be seen.
        """
        if self._has_room(peer):
            ask(*self._open(peer))
        else:
            # Later than what is to be read by then: a timer comes behind it, what that asks for behind the next.
            timer = self._loop.call_later(FULL_SECONDS, self._loop.call_soon, self._ask_first)
            self._waiting.append(_Waiting(peer, ask, timer))

    def associated(self, peer: str) -> None:
        """An association is accepted, or being judged."""
        self._associations[peer] += 1

    def association_left(self, peer: str) -> None:
        """There is room for another one."""
        _subtract(self._associations, peer)
        waiting = next((one for one in self._waiting if self._has_room(one.peer)), None)
        if waiting is not None:
            waiting.timer.cancel()
            self._waiting.remove(waiting)
            waiting.ask(*self._open(waiting.peer))

    def _ask_first(self) -> None:
        """Whoever has waited for so long is told that there is no room."""
        if self._waiting:
            waiting = self._waiting.pop(0)
            waiting.timer.cancel()
            waiting.ask(*self._open(waiting.peer))

    def _has_room(self, peer: str) -> bool:
        overall, of_peer = self._open(peer)
        return overall < self._most and (self._most_of_peer is None or of_peer < self._most_of_peer)

    def _open(self, peer: str) -> tuple[int, int]:
        return self._associations.total(), self._associations[peer]


def _subtract(counted: Counter[str], peer: str) -> None:
    counted[peer] -= 1
    if not counted[peer]:
        del counted[peer]
