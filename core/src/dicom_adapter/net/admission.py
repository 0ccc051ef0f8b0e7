"""Limits of connections and associations, overall and for each peer.

A connection above the limit is closed before memory is allocated for it. An association above the limit is rejected
as transient, so that the requestor tries again later.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from attrs import frozen

from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net.connection_counts import ConnectionCounts, decrement

# Connections that are allowed above the limit of associations, because they have not requested an association yet.
SPARE_CONNECTIONS = 100
SPARE_CONNECTIONS_PER_PEER = 10
WAIT_SECONDS = 0.25  # longest wait of an association request at the limit for the end of another association

OnSlot = Callable[[int, int], None]  # receives the number of open associations, and the number of these with the peer


@frozen
class _WaitingRequest:
    peer: str
    on_slot: OnSlot
    timer: asyncio.TimerHandle


class Admission:
    """Counts connections and associations by the peer's address. Not thread-safe: used in the event loop only."""

    def __init__(self, dicom: DicomConfig, loop: asyncio.AbstractEventLoop) -> None:
        self._connections = ConnectionCounts(0, None)
        self.set_limits(dicom)
        self._loop = loop
        self._associations: Counter[str] = Counter()
        self._waiting: list[_WaitingRequest] = []

    def set_limits(self, dicom: DicomConfig) -> None:
        """Apply changed limits. Connections and associations above the new limits stay open."""
        self._limit = dicom.max_associations
        self._limit_of_peer = dicom.max_associations_per_peer
        of_peer = None if self._limit_of_peer is None else self._limit_of_peer + SPARE_CONNECTIONS_PER_PEER
        self._connections.set_limits(self._limit + SPARE_CONNECTIONS, of_peer)

    # --- connections ------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return self._connections.total

    def open_connection(self, peer: str, *, is_proxy: bool = False) -> str:
        """Count a connection and return ""; at the limit, return the reason why it must be closed."""
        return self._connections.open(peer, is_proxy=is_proxy)

    def close_connection(self, peer: str) -> None:
        """Stop counting a connection."""
        self._connections.close(peer)

    # --- associations -----------------------------------------------------------------------------------------------

    def request_slot(self, peer: str, on_slot: OnSlot) -> None:
        """Call `on_slot` as soon as the number of associations is below the limit, or after WAIT_SECONDS at the limit.

        A requestor that opens one association for each instance often sends the next request before the end of its
        last association is noticed.
        """
        if self._has_slot(peer):
            on_slot(*self._counts(peer))
        else:
            # `call_soon` in the timer: bytes that have already arrived, such as a release, are processed first.
            timer = self._loop.call_later(WAIT_SECONDS, self._loop.call_soon, self._stop_waiting)
            self._waiting.append(_WaitingRequest(peer, on_slot, timer))

    def peers_at_limit(self) -> set[str]:
        """Return the peers with as many associations as a peer may have. Thread-safe.

        The result contains "" if all peers together have as many associations as are allowed.
        """
        counts = list(self._associations.items())
        limit = self._limit_of_peer
        found = {peer for peer, count in counts if limit is not None and count >= limit}
        return found | ({""} if sum(count for _peer, count in counts) >= self._limit else set())

    def open_association(self, peer: str) -> None:
        """Count an association that is accepted, or whose decision is pending."""
        self._associations[peer] += 1

    def close_association(self, peer: str) -> None:
        """Stop counting an association, and pass its slot to the first waiting request that may use it."""
        decrement(self._associations, peer)
        request = next((request for request in self._waiting if self._has_slot(request.peer)), None)
        if request is not None:
            request.timer.cancel()
            self._waiting.remove(request)
            request.on_slot(*self._counts(request.peer))

    def _stop_waiting(self) -> None:
        """Pass the counts to the request that has waited longest. It will be rejected, because the limit is reached."""
        if self._waiting:
            request = self._waiting.pop(0)
            request.timer.cancel()
            request.on_slot(*self._counts(request.peer))

    def _has_slot(self, peer: str) -> bool:
        overall, of_peer = self._counts(peer)
        return overall < self._limit and (self._limit_of_peer is None or of_peer < self._limit_of_peer)

    def _counts(self, peer: str) -> tuple[int, int]:
        return self._associations.total(), self._associations[peer]
