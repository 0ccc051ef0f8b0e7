"""Slowing down attempts to guess a token: how long an attempt waits, and which addresses it affects."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from dicom_adapter.web.access.throttle import (
    ALL_PEERS_WAIT_S,
    FREE_FAILURES,
    HALF_LIFE_S,
    LONGEST_WAIT_S,
    MANY_FAILURES,
    MAX_PEERS,
    MAX_WAITING,
    Throttle,
    TooManyAttempts,
)

PEER, OTHER = "10.0.0.7", "10.0.0.8"


@pytest.fixture
def throttle(monotonic: Any) -> Throttle:
    return Throttle(monotonic)


def wait_of(throttle: Throttle, peer: str) -> float:
    with throttle.attempt(peer) as seconds:
        return seconds


def fail(throttle: Throttle, peer: str, times: int) -> None:
    for _number in range(times):
        throttle.fail(peer)


def test_a_few_mistakes_have_no_effect(throttle: Throttle) -> None:
    fail(throttle, PEER, FREE_FAILURES)
    assert 0 == wait_of(throttle, PEER)


def test_each_further_failure_doubles_the_wait_up_to_a_maximum(throttle: Throttle) -> None:
    """Verified to fail when failures are not counted."""
    fail(throttle, PEER, FREE_FAILURES)
    waits = []
    for _number in range(8):
        throttle.fail(PEER)
        waits.append(wait_of(throttle, PEER))
    assert sorted(waits) == waits
    assert (True, LONGEST_WAIT_S) == (0 < waits[0] < waits[1] < LONGEST_WAIT_S, waits[-1])


def test_failures_are_forgotten_with_time(throttle: Throttle, monotonic: Any) -> None:
    fail(throttle, PEER, 20)
    monotonic.now += 10 * HALF_LIFE_S
    assert 0 == wait_of(throttle, PEER)


def test_another_address_does_not_wait(throttle: Throttle) -> None:
    fail(throttle, PEER, MANY_FAILURES)
    assert 0 == wait_of(throttle, OTHER)


def test_an_attack_from_many_addresses_delays_others_only_for_a_moment(throttle: Throttle) -> None:
    """Others are never refused."""
    for number in range(2 * MANY_FAILURES):
        throttle.fail(f"10.1.{number // 250}.{number % 250}")
    with ExitStack() as waiting:
        assert {ALL_PEERS_WAIT_S} == {waiting.enter_context(throttle.attempt(OTHER)) for _number in range(50)}


def test_an_address_has_only_a_few_waiting_attempts(throttle: Throttle) -> None:
    """Otherwise parallel attempts would make the wait ineffective. An attempt that ends makes space for another.

    Verified to fail without the limit.
    """
    fail(throttle, PEER, 20)
    with ExitStack() as waiting:
        for _number in range(MAX_WAITING):
            waiting.enter_context(throttle.attempt(PEER))
        with pytest.raises(TooManyAttempts), throttle.attempt(PEER):
            pass
    assert LONGEST_WAIT_S == wait_of(throttle, PEER)


def test_all_addresses_of_an_ipv6_network_are_one_site(throttle: Throttle) -> None:
    """A single machine can use 2^64 addresses. IPv4 addresses in the notation of IPv6 are those of IPv4."""
    for number in range(20):
        throttle.fail(f"2001:db8::{number:x}")
    assert LONGEST_WAIT_S == wait_of(throttle, "2001:db8::ffff:1")
    assert 0 == wait_of(throttle, "2001:db8:0:1::1")
    fail(throttle, f"::ffff:{PEER}", 20)
    assert LONGEST_WAIT_S == wait_of(throttle, PEER)


def test_the_number_of_known_addresses_is_bounded(throttle: Throttle) -> None:
    """The address that failed last is kept."""
    for number in range(MAX_PEERS + 10):
        throttle.fail(f"peer {number}")
    fail(throttle, PEER, 20)
    assert MAX_PEERS == len(throttle._peers)
    assert LONGEST_WAIT_S == wait_of(throttle, PEER)


def test_failures_are_counted_for_the_events_of_an_address(throttle: Throttle) -> None:
    assert [1, 2, 1] == [throttle.fail(PEER), throttle.fail(PEER), throttle.fail(OTHER)]
