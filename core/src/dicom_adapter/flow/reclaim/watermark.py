"""Beside step 6: when processors are to spare what they can, before associations have to be refused. Pure."""

from __future__ import annotations

from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import StorageConfig

MARGIN = 0.02  # of all room: it begins so far before the watermark, and so far above the reserve


def room_wanted(capacity: Capacity | None, storage: StorageConfig) -> int:
    """Bytes that are to be given back, so that associations are not refused soon; 0 when there is room enough."""
    if capacity is None:
        return 0
    margin = int(capacity.total_bytes * MARGIN)
    least_free = [0]
    if storage.watermark_percent < 100:
        least_free.append(capacity.total_bytes * (100 - storage.watermark_percent) // 100 + margin)
    if storage.reserve:
        least_free.append(storage.reserve + margin)
    return max(0, max(least_free) - capacity.free_bytes)
