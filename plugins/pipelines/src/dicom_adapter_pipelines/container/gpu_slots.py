"""Slots of GPUs: each GPU serves one container at a time, also while the adapter restarts or after its crash.

A slot is a lock (flock) on a file. The client of the engine inherits the open file, so the slot remains taken until
both this process and the client have ended. The file contains the name of the container until the container is removed.
If both processes were killed, the container may still run: the next user of the slot removes it first.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

RETRY_SECONDS = 0.5  # between two searches for a free slot
MAX_NAME_BYTES = 200  # of a container


@frozen(kw_only=True)
class GpuSlot:
    """A taken slot."""

    gpu: str
    descriptor: int  # open file with the lock
    previous: str  # name of the container that used the slot last, if perhaps it still exists; "" if it was removed


@contextmanager
def take_gpu(folder: Path, gpus: Sequence[str], keep_waiting: Callable[[], bool]) -> Iterator[GpuSlot]:
    """Wait for a free GPU and take it. Raises InterruptedError if the wait should end."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        for gpu in gpus:
            descriptor = _lock(folder / f"{gpu}.slot")
            if descriptor is None:
                continue
            try:
                previous = os.pread(descriptor, MAX_NAME_BYTES, 0).decode(errors="replace")
                yield GpuSlot(gpu=gpu, descriptor=descriptor, previous=previous)
            finally:
                os.close(descriptor)
            return
        if not keep_waiting():
            raise InterruptedError
        time.sleep(RETRY_SECONDS)


def record_holder(slot: GpuSlot, container: str) -> None:
    """Record the container that uses the slot, before it is started; "" when it has been removed."""
    os.ftruncate(slot.descriptor, 0)
    os.pwrite(slot.descriptor, container.encode(), 0)


def _lock(path: Path) -> int | None:
    """Open and lock a file; None if it is locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
