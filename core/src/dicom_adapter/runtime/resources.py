"""The shared objects that every step of the flow needs: ledger, storage backend and clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.ledger import Ledger
from dicom_adapter.runtime.clock import Clock


@frozen(kw_only=True, eq=False)
class Resources:
    """The shared objects of one process; all of them are thread-safe."""

    ledger: Ledger
    storage: StorageBackend[Any]
    clock: Clock
    # Returns why the opened storage was replaced or is missing; "" if it is not.
    storage_problem: Callable[[], str] = lambda: ""

    def problem(self) -> str:
        """Return why the opened storage or ledger was replaced or is missing; "" if both are unchanged."""
        return self.storage_problem() or self.ledger.problem()
