"""The workers of a process: threads for each of its parts, which may come, go and change while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.workers import Condition, Step, Worker

Parts = Mapping[str, tuple[Step, int]]  # the step function of each by its name, and how many threads it may run on


class Staff:
    """Changed by one thread; everything else is for any."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._parts: Parts = {}
        self._workers: Mapping[str, Sequence[Worker]] = {}  # replaced as a whole

    def stop_except(self, parts: Parts) -> dict[str, Sequence[Worker]]:
        """Stop the workers of all parts that `parts` does not have, or has with another step; return them.

        They end after their current step. The workers of the other parts go on undisturbed.
        """
        stopped = {name: self._workers[name] for name, part in self._parts.items() if parts.get(name) != part}
        for worker in _all(stopped):
            worker.stop()
        self._workers = {name: workers for name, workers in self._workers.items() if name not in stopped}
        self._parts = {name: part for name, part in self._parts.items() if name not in stopped}
        return stopped

    def start(self, parts: Parts) -> None:
        """Start the workers of those of `parts` that have none."""
        new = {
            name: [Worker(name, step, self._clock) for _number in range(threads)]
            for name, (step, threads) in parts.items()
            if name not in self._parts
        }
        self._workers, self._parts = {**self._workers, **new}, {**self._parts, **parts}
        for worker in _all(new):
            worker.start()

    def wake(self, part: str) -> None:
        """Let a part take a step now, if it is there."""
        for worker in self._workers.get(part, ()):
            worker.wake()

    def revive(self) -> list[str]:
        """Start the threads again that have ended unasked; returns the names of their parts."""
        return [worker.name for worker in _all(self._workers) if worker.revive()]

    def conditions(self) -> dict[str, list[Condition]]:
        """What they are at, by part."""
        return {name: [worker.condition() for worker in workers] for name, workers in self._workers.items()}


def join(workers: Mapping[str, Sequence[Worker]], seconds: float) -> set[str]:
    """Wait that long for workers to end; returns the parts of those that have not."""
    end = time.monotonic() + seconds
    return {worker.name for worker in _all(workers) if not worker.join(max(0.0, end - time.monotonic()))}


def _all(workers: Mapping[str, Sequence[Worker]]) -> Iterable[Worker]:
    return [worker for several in workers.values() for worker in several]
