"""Simulate the end of a process that writes with the storage backend `local`."""

from __future__ import annotations

from dicom_adapter.storage.local.backend import LocalStorage


def kill_local_storage(storage: LocalStorage) -> None:
    """Close descriptors and release locks, as the kernel does for a killed process, without closing in order.

    There is no public method for that: a process that ends in order seals its segments.
    """
    segments = storage._segments
    for written in segments._written.values():
        written.segment.close()
    segments._written.clear()
    segments._idle.clear()
