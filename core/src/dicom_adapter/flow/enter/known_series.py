"""Entry of rows: the series whose rows were entered recently.

The row of a series is entered with its first instance, and every ten minutes with a later one. So almost all
instances need no statement for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from dicom_adapter.flow.enter.received_instance import ReceivedInstance

# Time for which `RowEntry` relies on a row. `flow.reclaim.retention` deletes no row that was entered more recently.
RELIED_SECONDS = 600.0
MAX_SERIES = 10_000  # maximum number of remembered series: limits the memory


class _Known(NamedTuple):
    """The values of the last entered row of a series."""

    until: float  # time until which the row is relied on
    study_instance_uid: str
    patient_id: str
    look_up: Mapping[str, str]


class KnownSeries:
    """Remembers the last entered row of each series. Not thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}

    def unknown(self, received: Iterable[ReceivedInstance]) -> list[ReceivedInstance]:
        """Return the instances for which the row of their series is to be entered."""
        now = self._monotonic()
        return [instance for instance in received if not self._is_known(instance, now)]

    def _is_known(self, instance: ReceivedInstance, now: float) -> bool:
        columns = instance.columns
        known = self._known.get(columns["series_instance_uid"])
        return (
            known is not None
            and known.until > now
            and known.look_up == instance.look_up
            and known.patient_id == columns["patient_id"]
            and known.study_instance_uid == columns["study_instance_uid"]
        )

    def add(self, entered: Sequence[ReceivedInstance]) -> None:
        """Remember the rows of these instances. Call this after the transaction with the rows was committed."""
        if len(self._known) + len(entered) > MAX_SERIES:
            self._known.clear()
        until = self._monotonic() + RELIED_SECONDS
        for instance in entered:
            series = instance.series()
            self._known[series.series_instance_uid] = _Known(
                until, series.study_instance_uid, series.patient_id, instance.look_up
            )
