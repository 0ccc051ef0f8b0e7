"""Limit how often samples are taken, and how long a request waits for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from attrs import define, field

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.web.metrics.sample import Sample

log = structlog.get_logger("dicom_adapter.http")

KEPT_SECONDS = 1.0  # age up to which a sample is used again
PAUSE_FACTOR = 10  # taking samples uses at most a tenth of the time, however large the ledger is
WAIT_SECONDS = 0.03  # limit for a request to wait for the next sample; then it gets the last one
FIRST_WAIT_SECONDS = 5.0  # limit for a request to wait for the first sample


@define(eq=False)
class _Taking:
    """One sample that is being taken, or was taken."""

    has_ended: threading.Event = field(factory=threading.Event)


class Sampler:
    """Sampler that takes samples when they are requested. Thread-safe.

    A sample is taken on a thread of its own: a request does not wait for a disk that hangs, or for a long query.
    """

    def __init__(self, take: Callable[[], Sample], clock: Callable[[], float] = time.monotonic) -> None:
        self._take = take
        self._clock = clock
        self._lock = threading.Lock()  # guards the attributes below
        self._taking: _Taking | None = None
        self._due = clock()
        self._sample: Sample | None = None
        self._sampled_at = clock()

    def latest(self) -> tuple[Sample, float]:
        """Return the newest sample, and its age in seconds. Wait a short time for a new sample if one is due."""
        with self._lock:
            if self._taking is None or (self._taking.has_ended.is_set() and self._clock() >= self._due):
                self._taking = _Taking()
                threading.Thread(target=self._run, args=[self._taking], name="metrics", daemon=True).start()
            taking, is_first = self._taking, self._sample is None
        taking.has_ended.wait(FIRST_WAIT_SECONDS if is_first else WAIT_SECONDS)
        with self._lock:
            return self._sample or Sample([]), max(0.0, self._clock() - self._sampled_at)

    def _run(self, taking: _Taking) -> None:
        started = self._clock()
        try:
            sample = self._take()
        except Exception as failure:  # noqa: BLE001 - the last sample is used; its age shows the problem
            log.warning("metrics_not_read", error=describe_failure(failure))
            sample = None
        now = self._clock()
        with self._lock:
            self._due = now + max(KEPT_SECONDS, PAUSE_FACTOR * (now - started))
            if sample is not None:
                self._sample, self._sampled_at = sample, started
        taking.has_ended.set()
