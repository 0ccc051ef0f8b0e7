"""Rate limits of the lines that a peer can cause at will."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import structlog

import dicom_adapter
from dicom_adapter.runtime.logs import limits
from dicom_adapter.runtime.logs.limits import Limit, RateLimits

LOGGED = re.compile(r"\blog\.(?:debug|info|warning|error)\(\s*\"([a-z_]+)\"")
NOT_CAUSED_BY_PEERS = {
    "accept_failed",
    "certificate_renewal_failed",
    "certificates_renewed",
    "http_listening",
    "http_mount_failed",
    "metrics_not_read",  # once per sample, however often the metrics are requested
}
LIMITS = {"connection_refused": Limit("peer", burst=5, per_second=1, unless="bytes")}


class Limited:
    """Rate limits on a virtual clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.limits = RateLimits(LIMITS, monotonic=lambda: self.now)

    def written(self, count: int, event: str = "connection_refused", **fields: Any) -> int:
        """Return how many of `count` equal events are written."""
        number = 0
        for _number in range(count):
            try:
                self.limits(None, "warning", {"event": event, **fields})
            except structlog.DropEvent:
                continue
            number += 1
        return number


def test_a_peer_can_cause_a_limited_number_of_lines() -> None:
    """A burst of lines, then a number per second; lines that are not written are counted.

    Verified to fail when the tokens are not used up, and when they do not return.
    """
    limited = Limited()
    assert 5 == limited.written(100, peer="10.0.0.7")
    limited.now += 3
    assert 3 == limited.written(100, peer="10.0.0.7")
    assert {("connection_refused", "10.0.0.7"): 192} == limited.limits.take_suppressed()
    assert {} == limited.limits.take_suppressed()


def test_a_peer_does_not_suppress_the_lines_of_another() -> None:
    """Verified to fail when all peers share one limit."""
    limited = Limited()
    limited.written(100, peer="10.0.0.7")
    assert 1 == limited.written(1, peer="10.0.0.8")


def test_many_peers_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer may have many addresses. Neither the lines nor the memory grow with them.

    Verified to fail when there is no limit for all peers together, and when old peers are not deleted.
    """
    monkeypatch.setattr(limits, "MAX_KEYS", 20)
    limited = Limited()
    peers = [f"2001:db8::{number:x}" for number in range(1000)]
    assert 50 == sum(limited.written(1, peer=peer) for peer in peers)  # ten times the burst of one peer
    assert 20 == len(limited.limits._buckets)
    suppressed = limited.limits.take_suppressed()
    assert 950 == sum(suppressed.values())
    assert len(suppressed) <= 21


def test_events_without_a_limit_and_exempt_events_are_always_written() -> None:
    """An event is exempt if it has a value in the field `unless`.

    Verified to fail when `unless` is ignored.
    """
    limited = Limited()
    assert 100 == limited.written(100, event="instance_stored", peer="10.0.0.7")
    assert 100 == limited.written(100, peer="10.0.0.7", bytes=1)


@pytest.mark.parametrize("package", ["net", "web"])
def test_every_event_of_the_network_has_a_limit(package: str) -> None:
    """Verified to fail when an event is removed from the limits."""
    folder = Path(dicom_adapter.__file__).parent / package
    logged = {event for path in folder.rglob("*.py") for event in LOGGED.findall(path.read_text(encoding="utf-8"))}
    assert logged - NOT_CAUSED_BY_PEERS <= limits.LIMITS.keys()
