"""Beside step 6: determine when processors have to free space, before associations are rejected. Pure functions."""

from __future__ import annotations

from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import StorageConfig

MARGIN = 0.02  # of the total space: processors are asked this far before the watermark, and above the reserve


def bytes_to_free(capacity: Capacity | None, storage: StorageConfig) -> int:
    """Return how many bytes to free, so that associations are not rejected soon; 0 if there is enough free space."""
    if capacity is None:
        return 0
    margin = int(capacity.total_bytes * MARGIN)
    least_free = [0]
    if storage.watermark_percent < 100:
        least_free.append(capacity.total_bytes * (100 - storage.watermark_percent) // 100 + margin)
    if storage.reserve:
        least_free.append(storage.reserve + margin)
    return max(0, max(least_free) - capacity.free_bytes)
