"""Step 7 (`reclaim`) of the flow: the space that processors are requested to free before the storage is full."""

from __future__ import annotations

from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import StorageConfig

MARGIN = 0.02  # processors must free space when less than the limit and this share of the total space is free


def bytes_to_free(capacity: Capacity | None, storage: StorageConfig) -> int:
    """Return the number of bytes to free, so that associations are not rejected soon; 0 if no space is needed."""
    if capacity is None:
        return 0
    margin = int(capacity.total_bytes * MARGIN)
    required = [0]
    if storage.watermark_percent < 100:
        required.append(capacity.total_bytes * (100 - storage.watermark_percent) // 100 + margin)
    if storage.reserve:
        required.append(storage.reserve + margin)
    return max(0, max(required) - capacity.free_bytes)
