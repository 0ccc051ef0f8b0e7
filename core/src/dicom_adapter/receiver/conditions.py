"""The conditions under which associations are accepted: free space, stopped lanes and full quarantines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from attrs import frozen

from dicom_adapter.flow.acceptance import Space, measure_space
from dicom_adapter.ledger import lanes
from dicom_adapter.runtime.resources import Resources

# A sender may open hundreds of associations per second. Reading the conditions takes half a millisecond, and
# needs another thread, because the ledger may block. This is also the longest time until a stopped lane accepts no
# association.
RECENT_SECONDS = 0.5


@frozen(kw_only=True)
class Conditions:
    """The conditions at one moment."""

    space: Space
    stopped: Mapping[str, str]  # AE titles whose lanes are stopped, with the reasons
    full: Mapping[str, str]  # AE titles whose quarantine is full, with the reasons


class CurrentConditions:
    """Reads the conditions from ledger and disks, and keeps them for a short time. Thread-safe."""

    def __init__(
        self,
        resources: Resources,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        backlog: Callable[[], str] = lambda: "",
    ) -> None:
        """`backlog` returns why nothing is accepted until the host has entered rows, or ""."""
        self._resources = resources
        self._backlog = backlog
        self._monotonic = monotonic
        self._last: tuple[float, Conditions] | None = None  # time of the reading, and its result

    def recent(self) -> Conditions | None:
        """Return conditions that were read at most RECENT_SECONDS ago, or None. Does not block.

        They are good enough to accept an association: the limits are checked again for each of its instances. Before a
        rejection, call `read`: the conditions may have changed.
        """
        last = self._last
        return last[1] if last is not None and self._monotonic() - last[0] <= RECENT_SECONDS else None

    def forget(self) -> None:
        """Make the next call of `recent` return None: the configuration has changed."""
        self._last = None

    def read(self) -> Conditions:
        """Read the conditions. May block. Raises LedgerError."""
        at, resources = self._monotonic(), self._resources
        problem = resources.problem() or self._backlog()
        if problem:
            conditions = Conditions(space=Space(problem=problem), stopped={}, full={})
        else:
            with resources.ledger.read() as transaction:
                stopped, full = lanes.stopped_and_full(transaction)
            space = measure_space(resources.storage, resources.ledger, resources.problem)
            conditions = Conditions(space=space, stopped=stopped, full=full)
        self._last = at, conditions
        return conditions
