"""The arrival of instances in the host: enter their rows, wake the lanes, and notify the observers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.config.model import Config
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.follower import Follower
from dicom_adapter.flow.enter.journal import FOLDER
from dicom_adapter.flow.notify import Notify
from dicom_adapter.flow.process.lane import Lane
from dicom_adapter.ledger.health import HOST
from dicom_adapter.runtime.parts import Part, PartKind, PartWork, lane_part
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.workers import SLICE_SECONDS


class Arrivals:
    """The parts ENTER and NOTIFY of the host."""

    def __init__(
        self,
        config: Config,
        resources: Resources,
        wake: Callable[[Part], None],
        lanes: Callable[[], Mapping[str, Lane]],
        on_stored: Callable[[InstanceStorageInfo], None] | None,
        on_replaced: Callable[[Sequence[int]], None],
        poll_every: timedelta,
    ) -> None:
        """`lanes` returns the lanes by AE title.

        `on_stored` is called with each new instance, unless it is None. `on_replaced` is called with the ids of
        instances that were replaced by newer arrivals.
        """
        self._clock = resources.clock
        self._wake, self._lanes = wake, lanes
        self._on_stored, self._on_replaced = on_stored, on_replaced
        self._poll_every = poll_every
        self._entry = RowEntry(config, resources, HOST)
        self._follower = Follower(config.storage.path / FOLDER, self._entry, resources, self._on_entered)
        self._notify = Notify(resources.ledger, each=on_stored is not None)

    def configure(self, config: Config) -> None:
        """Apply another configuration."""
        self._entry.configure(config)

    def enter_until(self, moment: datetime) -> None:
        """Make sure that every instance acknowledged before `moment` has a row. Raises LedgerError, OSError."""
        self._follower.enter_until(moment)

    def parts(self) -> dict[Part, PartWork]:
        """Return the work of the parts."""
        return {Part(PartKind.ENTER): PartWork(self._enter), Part(PartKind.NOTIFY): PartWork(self._notify_parts)}

    def close(self) -> None:
        """Close the journals."""
        self._follower.close()

    def _enter(self) -> datetime:
        """Enter the rows of the instances that the receivers have stored."""
        self._follower.follow()
        return self._clock.now() + self._poll_every

    def _on_entered(self, _results: Sequence[StoreResult]) -> None:
        self._wake(Part(PartKind.NOTIFY))

    def _notify_parts(self) -> datetime:
        """Notify observers and wake lanes of new instances. A step ends after a slice of time and continues later."""
        end = time.monotonic() + SLICE_SECONDS
        for arrived in self._notify.arrived():
            if self._on_stored is not None:
                for instance in arrived.instances:
                    self._on_stored(instance)
            by_ae_title = self._lanes()  # a lane that is created later reads the ledger when it starts
            for ae_title in arrived.ae_titles & by_ae_title.keys():
                by_ae_title[ae_title].notify_arrival()
                self._wake(lane_part(ae_title))
            if arrived.replaced:
                self._on_replaced(arrived.replaced)
            if time.monotonic() >= end:
                return self._clock.now()
        return self._clock.now() + self._poll_every
