"""Steps 1 (`association`) and 2 (`store`) of the flow: decide whether an AE title accepts associations and C-STOREs.

`status` and the health use the same functions, so they show the reason of every refusal. All functions are pure, except
`measure_space`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, frozen

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import StorageConfig
from dicom_adapter.flow.free_space import ledger_full, storage_full
from dicom_adapter.ledger import Ledger

# Free space that an association needs in addition to the ledger's reserve. Without this addition, associations would be
# accepted at the limit although all their instances would be refused.
SMALLEST_ASSOCIATION_BYTES = 2**20


@frozen(kw_only=True)
class Space:
    """The measured free space."""

    capacity: Capacity | None = None  # total and free space of the storage backend; None: no known limit
    ledger_free: int | None = None  # free bytes on the ledger's disk; None: unknown
    problem: str = ""  # why nothing can be stored: the storage or the ledger was replaced, or fails

    def after(self, written_bytes: int) -> Space:
        """Return the free space after `written_bytes` were written to each disk."""
        capacity, ledger_free = self.capacity, self.ledger_free
        return evolve(
            self,
            capacity=capacity and evolve(capacity, free_bytes=max(0, capacity.free_bytes - written_bytes)),
            ledger_free=ledger_free and max(0, ledger_free - written_bytes),
        )


@frozen(kw_only=True)
class LocalRefusal:
    """A refusal of instances or associations whose cause is the adapter, not the sender."""

    part: str  # the part with the cause, as health shows it
    reason: str


def measure_space(storage: StorageBackend[Any], ledger: Ledger, find_problem: Callable[[], str]) -> Space:
    """Measure the free space. `find_problem` returns the reason if the storage or the ledger was replaced, else ""."""
    try:
        return Space(capacity=storage.capacity(), ledger_free=ledger.free_bytes())
    except (Exception, SystemExit) as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
        return Space(problem=find_problem() or f"its free space is unknown: {describe_failure(failure)}")


def lack_of_space(space: Space, storage: StorageConfig, data_set_bytes: int = 0) -> LocalRefusal | None:
    """Return why no data set can be stored at any AE title; None if there is enough space for `data_set_bytes` more."""
    reason = space.problem or storage_full(space.capacity, storage, data_set_bytes)
    if reason:
        return LocalRefusal(part="storage", reason=reason)
    reason = ledger_full(space.ledger_free, data_set_bytes)
    return LocalRefusal(part="ledger", reason=reason) if reason else None


def instance_refusal(ae_title: str, full: Mapping[str, str], lack: LocalRefusal | None) -> LocalRefusal | None:
    """Return why a C-STORE is refused now; None if it is accepted.

    `full`: AE titles whose quarantine is full, with the reasons; `lack`: the result of `lack_of_space`.
    """
    reason = full.get(ae_title)
    return LocalRefusal(part=f"AE title {ae_title}", reason=reason) if reason else lack


def association_refusal(
    ae_title: str, full: Mapping[str, str], space: Space, storage: StorageConfig
) -> LocalRefusal | None:
    """Return why an association is rejected although its AE title is served; None if it is accepted."""
    lack = lack_of_space(space, storage)
    if lack is None:
        reason = ledger_full(space.ledger_free, SMALLEST_ASSOCIATION_BYTES)
        lack = LocalRefusal(part="ledger", reason=reason) if reason else None
    return instance_refusal(ae_title, full, lack)
