"""The conditions under which associations are accepted: free space, stopped lanes and full quarantines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from attrs import frozen

from dicom_adapter.flow.acceptance import Space, measure_space
from dicom_adapter.ledger import lanes
from dicom_adapter.runtime.resources import Resources

RECENT_SECONDS = 0.02  # a sender may open hundreds of associations per second, and reading takes half a millisecond


@frozen(kw_only=True)
class Conditions:
    """The conditions at one moment."""

    space: Space
    stopped: Mapping[str, str]  # AE titles whose lanes are stopped, with the reasons
    full: Mapping[str, str]  # AE titles whose quarantine is full, with the reasons


class CurrentConditions:
    """Reads the conditions from ledger and disks, and keeps them for a short time. Thread-safe."""

    def __init__(self, resources: Resources, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._resources = resources
        self._monotonic = monotonic
        self._last: tuple[float, Conditions] | None = None  # time of the reading, and its result

    def recent(self) -> Conditions:
        """Return conditions that were read at most RECENT_SECONDS ago.

        They are good enough to accept an association: each of its instances is checked again. Before a rejection,
        call `read`: the conditions may have changed.
        """
        last = self._last
        if last is not None and self._monotonic() - last[0] <= RECENT_SECONDS:
            return last[1]
        return self.read()

    def read(self) -> Conditions:
        """Read the conditions. Raises LedgerError."""
        at, resources = self._monotonic(), self._resources
        problem = resources.problem()
        if problem:
            conditions = Conditions(space=Space(problem=problem), stopped={}, full={})
        else:
            with resources.ledger.read() as transaction:
                stopped, full = lanes.stopped_and_full(transaction)
            space = measure_space(resources.storage, resources.ledger, resources.problem)
            conditions = Conditions(space=space, stopped=stopped, full=full)
        self._last = at, conditions
        return conditions
