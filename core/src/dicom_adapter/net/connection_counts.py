"""Limits of open TCP connections, in total and for each peer. The DICOM port and the HTTP server use them."""

from __future__ import annotations

from collections import Counter


class ConnectionCounts:
    """Counts connections by the peer's address. Not thread-safe: used in one event loop only."""

    def __init__(self, limit: int, limit_of_peer: int | None) -> None:
        self._open: Counter[str] = Counter()
        self.set_limits(limit, limit_of_peer)

    def set_limits(self, limit: int, limit_of_peer: int | None) -> None:
        """Apply changed limits. Connections above the new limits stay open. `limit_of_peer`: None for no limit."""
        self._limit = limit
        self._limit_of_peer = limit_of_peer

    @property
    def total(self) -> int:
        """Number of open connections."""
        return self._open.total()

    def open(self, peer: str, *, is_proxy: bool = False) -> str:
        """Count a connection and return ""; at the limit, return the reason why it must be closed.

        The limit for each peer does not apply to a proxy: its connections count for the peers that their headers name.
        """
        if self.total >= self._limit:
            return f"{self.total} connections are open"
        of_peer = self._open[peer]
        if self._limit_of_peer is not None and not is_proxy and of_peer >= self._limit_of_peer:
            return f"{of_peer} connections are open from this address"
        self._open[peer] += 1
        return ""

    def close(self, peer: str) -> None:
        """Stop counting a connection."""
        decrement(self._open, peer)


def decrement(counts: Counter[str], peer: str) -> None:
    """Subtract 1, and remove a count of zero, so that the memory does not grow with the number of addresses."""
    counts[peer] -= 1
    if not counts[peer]:
        del counts[peer]
