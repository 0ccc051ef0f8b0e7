"""Steps 1 (`association`) and 2 (`store`) of the flow: check the free space. All functions are pure."""

from __future__ import annotations

from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import StorageConfig

# Free space that is reserved for rows about instances that are stored already: without these rows no job ends, and no
# space is freed. The reserve is enough for the write-ahead log, which SQLite merges into the database at 4 MiB, and for
# tens of thousands of rows.
LEDGER_RESERVE_BYTES = 16 * 2**20


def storage_full(capacity: Capacity | None, storage: StorageConfig, size: int = 0) -> str:
    """Return why no data set of `size` bytes may be stored now; "" if there is enough free space."""
    if capacity is None:
        return ""
    used = 100 * (1 - capacity.free_bytes / capacity.total_bytes) if capacity.total_bytes else 100.0
    if used >= storage.watermark_percent and storage.watermark_percent < 100:
        return f"storage is {used:.0f} % full, watermark-percent = {storage.watermark_percent}"
    if storage.reserve and capacity.free_bytes - size < storage.reserve:
        return f"storage has {capacity.free_bytes} bytes left, reserve = {storage.reserve}"
    return ""


def ledger_full(free_bytes: int | None, data_set_bytes: int = 0) -> str:
    """Return why the ledger's disk does not have enough free space for more rows; "" if it has enough.

    `data_set_bytes` is the additional free space for data sets, which may be on the same disk.
    """
    if free_bytes is None or free_bytes >= LEDGER_RESERVE_BYTES + data_set_bytes:
        return ""
    return f"the ledger's disk has {free_bytes} bytes left, {LEDGER_RESERVE_BYTES + data_set_bytes} are needed"


def required_free_bytes(capacity: Capacity, storage: StorageConfig) -> int:
    """Return the free space below which associations are rejected; 0 if there is no limit."""
    below_watermark = -(-capacity.total_bytes * (100 - storage.watermark_percent) // 100)
    return max(storage.reserve, below_watermark if storage.watermark_percent < 100 else 0)
