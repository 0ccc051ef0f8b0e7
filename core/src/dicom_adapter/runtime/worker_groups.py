"""The workers of a process: a group of threads for each part. Parts can be added, replaced and removed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.parts import Part, Parts
from dicom_adapter.runtime.workers import Condition, Worker

Workers = Mapping[Part, Sequence[Worker]]


class WorkerGroups:
    """The workers of all parts of a process. `stop_except` and `start` are not thread-safe; the other methods are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._parts: Parts = {}
        self._workers: Workers = {}  # replaced as a whole, because other threads read it

    def stop_except(self, parts: Parts) -> Workers:
        """Stop the workers of each part that `parts` does not contain, or contains with different work.

        `parts` maps each part to its work. Return the stopped workers, which end after their current step. The workers
        of the other parts continue.
        """
        stopped = {part: self._workers[part] for part, work in self._parts.items() if parts.get(part) != work}
        for worker in _all(stopped):
            worker.stop()
        self._workers = {part: workers for part, workers in self._workers.items() if part not in stopped}
        self._parts = {part: work for part, work in self._parts.items() if part not in stopped}
        return stopped

    def start(self, parts: Parts) -> None:
        """Start workers for the parts that have none. Before this, call `stop_except` with the same `parts`."""
        new = {
            part: [Worker(str(part), work.step, self._clock) for _number in range(work.threads)]
            for part, work in parts.items()
            if part not in self._parts
        }
        self._workers, self._parts = {**self._workers, **new}, {**self._parts, **parts}
        for worker in _all(new):
            worker.start()

    def wake(self, part: Part) -> None:
        """Run the step of a part now. Do nothing if the part does not exist."""
        for worker in self._workers.get(part, ()):
            worker.wake()

    def revive(self) -> list[Part]:
        """Restart threads that ended without a stop. Return their parts."""
        return [part for part, workers in self._workers.items() for worker in workers if worker.revive()]

    def conditions(self) -> dict[Part, list[Condition]]:
        """Return the conditions of all workers, by part."""
        return {part: [worker.condition() for worker in workers] for part, workers in self._workers.items()}


def join(workers: Workers, seconds: float) -> set[Part]:
    """Wait up to `seconds` for stopped workers. Return the parts of workers that have not ended."""
    end = time.monotonic() + seconds
    return {
        part
        for part, several in workers.items()
        if not all(worker.join(max(0.0, end - time.monotonic())) for worker in several)
    }


def names(parts: Collection[Part]) -> list[str]:
    """Return the names of parts, sorted, for a log event."""
    return sorted(map(str, parts))


def _all(workers: Workers) -> Iterable[Worker]:
    return [worker for several in workers.values() for worker in several]
