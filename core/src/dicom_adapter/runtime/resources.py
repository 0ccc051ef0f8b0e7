"""The shared objects that every step of the flow needs: ledger, storage backend and clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from attrs import field, frozen

from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.held import HeldSizes
from dicom_adapter.runtime import traces
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.shared_counts import Counts
from dicom_adapter.runtime.traces import Traces


@frozen(kw_only=True, eq=False)
class Resources:
    """The shared objects of one process; all of them are thread-safe."""

    ledger: Ledger
    storage: StorageBackend[Any]
    clock: Clock
    counts: Counts = field(factory=Counts)  # what `/metrics` shows of this process
    traces: Traces = field(factory=lambda: traces.of_process())
    held_sizes: HeldSizes = field(factory=HeldSizes)  # for status reports, which are computed often
    # Describes the problem if the storage that was opened is missing or was replaced; otherwise "".
    storage_problem: Callable[[], str] = lambda: ""
    # Makes sure that every instance that was acknowledged before a time has a row in the ledger.
    enter_until: Callable[[datetime], None] = lambda _time: None

    def problem(self) -> str:
        """Describe the problem if the storage or the ledger is missing or was replaced; otherwise return ""."""
        return self.storage_problem() or self.ledger.problem()
