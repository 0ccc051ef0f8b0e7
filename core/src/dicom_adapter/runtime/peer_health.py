"""The health of a peer on which the adapter depends, such as the platform of a submitter.

A peer is down after three failures in a row, or when for 60 seconds no call succeeded although something waits for the
peer. It is up again after the next success, or when nothing waits any more. While calls fail, the caller must try
again at least every PROBE_EVERY, so that the end of an outage is noticed within a minute.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from attrs import define

FAILURES_TO_REPORT = 3  # number of consecutive failures to report: fewer are usually transient
DOWN_AFTER = timedelta(seconds=60)  # time without a success after the first failure
PROBE_EVERY = timedelta(seconds=30)  # maximum time between two tries while calls fail


@define
class PeerHealth:
    """The results of the calls of one peer since the last success. Not thread-safe."""

    failures: int = 0  # number of consecutive failures
    failing_since: datetime | None = None  # time of the first of these failures
    error: str = ""  # error of the last of these failures, without patient data
    is_down: bool = False

    def failed(self, now: datetime, error: str) -> None:
        """Record a call that failed although another call may succeed."""
        self.failures += 1
        self.failing_since = min(now, self.failing_since or now)
        self.error = error
        self.check(now)

    def succeeded(self) -> bool:
        """Record an answer of the peer, or that nothing waits for it. Return whether the peer was down before."""
        was_down = self.is_down
        self.failures, self.failing_since, self.error, self.is_down = 0, None, "", False
        return was_down

    def check(self, now: datetime) -> None:
        """Determine whether the peer is down. Call this method only while something waits for the peer."""
        due = self.down_at
        if self.failures >= FAILURES_TO_REPORT or (due is not None and due <= now):
            self.is_down = True

    @property
    def down_at(self) -> datetime | None:
        """The time from which the peer is down because no call has succeeded; None if no call has failed."""
        return None if self.failing_since is None else self.failing_since + DOWN_AFTER

    @property
    def problem(self) -> str:
        """Why the peer is down; "" if it is not down."""
        if not self.is_down or self.failing_since is None:
            return ""
        times = "1 call has failed" if self.failures == 1 else f"{self.failures} calls in a row have failed"
        return f"{times} since {self.failing_since:%Y-%m-%d %H:%M:%S} UTC: {self.error}"
