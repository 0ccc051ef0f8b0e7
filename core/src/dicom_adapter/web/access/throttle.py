"""Slow down the attempts to guess a token, by address and for all addresses together.

An attempt waits before its token is compared, so the time of the response does not show whether the token was right. An
address with more than a few recent failures waits longer with each further failure, and has only a few attempts waiting
at the same time; further attempts are refused at once. Other addresses are not refused, and wait at most
`ALL_PEERS_WAIT_S`, even if an attack comes from many addresses.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address

from attrs import define

from dicom_adapter.net.address import plain_address

FREE_FAILURES = 5  # failures of an address without an effect: mistakes of people and programs
FIRST_WAIT_S = 0.1  # wait after the next failure; it doubles with each further failure
LONGEST_WAIT_S = 2.0
MAX_WAITING = 4  # number of attempts of an address that wait at the same time
MANY_FAILURES = 100  # recent failures of all addresses together, above which every attempt waits
ALL_PEERS_WAIT_S = 0.5
HALF_LIFE_S = 60.0  # the count of failures is halved in this time
MAX_PEERS = 4096  # number of addresses with failures; above it, the least recently failed address is forgotten
IPV6_SITE = 64  # number of bits of an IPv6 address that identify a site, which can use all addresses of its network


@define
class _Failures:
    """The recent failures of an address, or of all addresses."""

    at: float  # monotonic time at which `count` was right
    count: float = 0.0
    waiting: int = 0  # number of attempts that wait now
    total: int = 0  # failures since the address was entered

    def recent(self, now: float) -> float:
        """Return the number of failures, of which older ones count less."""
        return self.count * math.pow(0.5, (now - self.at) / HALF_LIFE_S)

    def add(self, now: float) -> None:
        """Count a failure."""
        self.count, self.at = self.recent(now) + 1, now
        self.total += 1


class TooManyAttempts(Exception):
    """An address has too many attempts that wait."""


class Throttle:
    """The recent failures, and the waits that follow from them. Not thread-safe: used by the event loop only."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._peers: OrderedDict[str, _Failures] = OrderedDict()
        self._all = _Failures(monotonic())

    @contextmanager
    def attempt(self, peer: str) -> Iterator[float]:
        """Context manager of one attempt: yield the seconds to wait. Raises TooManyAttempts."""
        known = self._peers.get(_site(peer))
        wait = self._wait(known)
        if known is None:
            yield wait
            return
        if known.waiting >= MAX_WAITING and wait > 0:
            raise TooManyAttempts
        known.waiting += 1
        try:
            yield wait
        finally:
            known.waiting -= 1

    def fail(self, peer: str) -> int:
        """Count a failure of an address. Return the number of its failures."""
        now, site = self._monotonic(), _site(peer)
        known = self._peers.setdefault(site, _Failures(now))
        self._peers.move_to_end(site)
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        known.add(now)
        self._all.add(now)
        return known.total

    def _wait(self, known: _Failures | None) -> float:
        now = self._monotonic()
        of_all = ALL_PEERS_WAIT_S if self._all.recent(now) > MANY_FAILURES else 0.0
        excess = 0.0 if known is None else known.recent(now) - FREE_FAILURES
        if excess < 0.5:
            return of_all
        return max(of_all, min(LONGEST_WAIT_S, FIRST_WAIT_S * math.pow(2.0, min(excess, 10.0))))


def _site(peer: str) -> str:
    """Return the network that is counted: an IPv4 address, or the first 64 bits of an IPv6 address."""
    try:
        address = ip_address(plain_address(peer))
    except ValueError:
        return peer
    return str(int(address) >> (128 - IPV6_SITE)) if isinstance(address, IPv6Address) else str(address)
