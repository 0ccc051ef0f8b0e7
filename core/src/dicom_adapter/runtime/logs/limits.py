"""Rate limits for log lines that a peer can cause, so that a peer can neither fill the disk nor hide other lines."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog
from attrs import define, frozen

MAX_KEYS = 2048  # number of peers that are limited separately; above it, the least recently active peer is forgotten
ALL_PEERS = 10  # all peers together may cause this multiple of the lines of one peer


@frozen
class Limit:
    """The number of log lines of one event that one peer may cause."""

    field: str  # the field of the event that identifies the peer
    burst: int  # number of lines at once
    per_second: float  # number of lines per second after the burst
    unless: str = ""  # events with a value in this field are not limited


REFUSAL = Limit("peer", burst=50, per_second=2)
# This limit is high, because devices may open an association for each instance. Ends of associations with C-STOREs are
# events with the field `statuses`, and are not limited.
ASSOCIATION = Limit("peer", burst=1000, per_second=50, unless="statuses")
INSTANCE = Limit("ae_title", burst=1000, per_second=50)
LIMITS: Mapping[str, Limit] = {
    "association_accepted": ASSOCIATION,
    "association_closed": ASSOCIATION,
    "association_rejected": REFUSAL,
    "association_decision_failed": REFUSAL,
    "association_request_irregular": REFUSAL,
    "association_timed_out": REFUSAL,
    "connection_refused": REFUSAL,
    "http_request_failed": REFUSAL,
    "http_signed_in": REFUSAL,
    "http_signed_out": REFUSAL,
    "http_token_refused": REFUSAL,
    "instance_ignored": INSTANCE,
    "instance_refused": INSTANCE,
    "library_message": Limit("logger", burst=50, per_second=2),
    "presentation_contexts_declined": REFUSAL,
    "process_output": Limit("name", burst=1000, per_second=50),
    "protocol_violated": REFUSAL,
    "proxy_header_refused": REFUSAL,
    "request_failed": Limit("ae_title", burst=50, per_second=2),
    "store_failed": REFUSAL,
    "text_omitted": Limit("ae_title", burst=50, per_second=2),
    "tls_handshake_failed": REFUSAL,
}
Key = tuple[str, "str | None"]  # an event, and the value of `Limit.field`; None: the limit of all peers together


@define
class _Bucket:
    """A token bucket: the number of lines that may be written at `at`."""

    tokens: float
    at: float


class RateLimits:
    """A processor of structlog that drops events above their limits, and counts them. Thread-safe."""

    def __init__(
        self, limits: Mapping[str, Limit] = LIMITS, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._lock = threading.RLock()  # reentrant, because a garbage collection may log
        self._buckets: OrderedDict[Key, _Bucket] = OrderedDict()
        self._suppressed: Counter[tuple[str, str]] = Counter()

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return the event, or raise DropEvent."""
        limit = self._limits.get(event["event"])
        if limit is None or event.get(limit.unless):
            return event
        if not self._may_write(event["event"], str(event.get(limit.field, "")), limit):
            raise structlog.DropEvent
        return event

    def take_suppressed(self) -> Mapping[tuple[str, str], int]:
        """Return the number of lines dropped since the last call, by event and peer."""
        with self._lock:
            suppressed, self._suppressed = self._suppressed, Counter()
        return suppressed

    def _may_write(self, event: str, peer: str, limit: Limit) -> bool:
        now = self._monotonic()
        with self._lock:
            of_peer = self._bucket((event, peer), now, limit.burst, limit.per_second)
            of_all = self._bucket((event, None), now, limit.burst * ALL_PEERS, limit.per_second * ALL_PEERS)
            if of_peer.tokens < 1 or of_all.tokens < 1:
                self._suppressed[event, peer if len(self._suppressed) < MAX_KEYS else ""] += 1
                return False
            of_peer.tokens -= 1
            of_all.tokens -= 1
            return True

    def _bucket(self, key: Key, now: float, burst: int, per_second: float) -> _Bucket:
        """Return the bucket with its tokens at this time."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(burst, now)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        bucket.tokens = min(burst, bucket.tokens + (now - bucket.at) * per_second)
        bucket.at = now
        return bucket
