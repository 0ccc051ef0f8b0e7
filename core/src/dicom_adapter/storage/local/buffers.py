"""Memory buffers for records that are not written yet."""

from __future__ import annotations

import mmap
import threading
from typing import TypeAlias

from dicom_adapter.storage.local.segment import BLOCK

LARGE_BYTES = 1 << 20  # maximum content of a large buffer; longer files are written while they arrive
SMALL_BYTES = 1 << 16  # maximum content of a small buffer, which every writer gets
LARGE_TOTAL_BYTES = 32 << 20  # maximum content of all large buffers together
SPARE_BUFFERS = 64  # number of unused buffers of each size that are kept for later writers

Buffer: TypeAlias = memoryview  # whole blocks, at a memory address that O_DIRECT accepts


class Buffers:
    """A pool of reusable buffers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._small: list[Buffer] = []
        self._large: list[Buffer] = []
        self._large_available = LARGE_TOTAL_BYTES // LARGE_BYTES

    def small(self) -> Buffer:
        """Return a buffer for SMALL_BYTES of content."""
        with self._lock:
            return self._small.pop() if self._small else _allocate(SMALL_BYTES)

    def large(self) -> Buffer | None:
        """Return a buffer for LARGE_BYTES of content; None if all of them are in use."""
        with self._lock:
            if not self._large_available:
                return None
            large = self._large.pop() if self._large else _allocate(LARGE_BYTES)
            self._large_available -= 1
            return large

    def release(self, buffer: Buffer) -> None:
        """Return a buffer for reuse."""
        is_large = len(buffer) > LARGE_BYTES
        with self._lock:
            self._large_available += is_large
            spare = self._large if is_large else self._small
            if len(spare) < SPARE_BUFFERS:
                spare.append(buffer)


def _allocate(content: int) -> Buffer:
    """Return a buffer for `content` bytes, with space for the header of the record and a recovery record."""
    return memoryview(mmap.mmap(-1, content + 2 * BLOCK))
