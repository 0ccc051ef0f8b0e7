"""Is there enough free space? Pure functions that association and store share."""

from __future__ import annotations

from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import StorageConfig

# Reserved for rows of instances that were accepted before: without them no job ends, and no space is freed. Enough for
# the write-ahead log, which SQLite merges into the database when it has 4 MiB, and for tens of thousands of rows.
LEDGER_RESERVE_BYTES = 16 * 2**20


def storage_full(capacity: Capacity | None, storage: StorageConfig, size: int = 0) -> str:
    """Return why nothing more, or no data set of `size` bytes, may be stored now; "" if there is enough free space."""
    if capacity is None:
        return ""
    used = 100 * (1 - capacity.free_bytes / capacity.total_bytes) if capacity.total_bytes else 100.0
    if used >= storage.watermark_percent and storage.watermark_percent < 100:
        return f"storage is {used:.0f} % full, watermark-percent = {storage.watermark_percent}"
    if storage.reserve and capacity.free_bytes - size < storage.reserve:
        return f"storage has {capacity.free_bytes} bytes left, reserve = {storage.reserve}"
    return ""


def ledger_full(free_bytes: int | None, more: int = 0) -> str:
    """Return why the ledger cannot accept more rows, although the storage may have free space; "" if it can.

    `more`: bytes that must be free besides, for data sets on the same disk.
    """
    if free_bytes is None or free_bytes >= LEDGER_RESERVE_BYTES + more:
        return ""
    return f"the ledger's disk has {free_bytes} bytes left, {LEDGER_RESERVE_BYTES + more} are needed"
