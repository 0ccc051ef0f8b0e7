"""The lock of a job folder: held by the runner for as long as it lives, so it shows whether the job runs."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

TAKE_SECONDS = 2.0  # `is_locked` holds the lock for an instant, so a runner tries for this time to take it


def is_locked(path: Path) -> bool:
    """Return whether a runner holds the lock. A missing file is not locked."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def take_lock(path: Path) -> int | None:
    """Take the lock until the process ends or the returned file descriptor is closed; None if another runner has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + TAKE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(descriptor)
                return None
            time.sleep(0.01)
