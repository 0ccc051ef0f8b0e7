"""The generation of a storage, by which a start checks that the ledger and the storage belong together.

    <storage.path>/instances/storage-id     line 1: the identity of the storage; line 2: its generation

The generation increases when a service starts, every hour, and when the service stops, in three steps: the ledger
records the next generation; it is written to the storage; the ledger records it as the current generation. So ledger
and storage match after a crash at any moment. They do not match if only one of them was restored from a backup.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from attrs import frozen

from dicom_adapter.api.errors import LedgerError, Refused, StorageUnavailable, describe_failure
from dicom_adapter.ledger import Ledger, storages
from dicom_adapter.ledger.storages import RecordedStorage, StorageMismatch
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.storage_marker import StorageMarker

log = structlog.get_logger("dicom_adapter.host")

EVERY = timedelta(hours=1)  # time between two generations while the service runs
OFFSET = 37  # offset of the second line: a UUID has 36 characters
DIGITS = 20  # a fixed length, so that the line is overwritten as a whole

WAY_OUT = (
    "use a ledger and a storage that belong together: check `[ledger] url` and `storage.path`, mount their disks, or "
    "restore both from the same backup. To continue with these two, run `dicom-adapter audit --repair` once"
)


@frozen
class StorageGeneration:
    """The generation of an open storage and of its ledger. Not thread-safe."""

    marker: StorageMarker
    ledger: Ledger
    clock: Clock
    is_durable: bool  # False: a power loss may destroy the last generations in the ledger

    def require_match(self) -> None:
        """Raise Refused if the ledger and the storage do not belong together."""
        with self.ledger.read() as transaction:
            recorded = storages.load(transaction)
        mismatch = storages.compare(recorded, self.marker.identity, _read(self.marker.file.path))
        if mismatch in (StorageMismatch.OLDER_STORAGE, StorageMismatch.OLDER_LEDGER) and not self.is_durable:
            return
        if mismatch is not None:
            folder = self.marker.file.path.parent
            raise Refused(f"{mismatch.value} (ledger {self.ledger.url}, storage {folder}); {WAY_OUT}")

    def step(self) -> datetime:
        """Begin the next generation. Return the time of the next call."""
        self.advance()
        return self.clock.now() + EVERY

    def advance(self) -> None:
        """Begin the next generation. Afterwards, the ledger and the storage belong together.

        Raises StorageUnavailable, OSError or the errors of the ledger.
        """
        problem = self.marker.problem()
        if problem:
            raise StorageUnavailable(problem)
        path = self.marker.file.path
        current = _read(path)
        with self.ledger.write() as transaction:
            recorded = storages.load(transaction)
            known = [current] if recorded is None else [current, recorded.generation, recorded.next_generation or 0]
            following = max(known) + 1
            storages.save(transaction, self._recorded(current, following))
        write_generation(path, following)
        with self.ledger.write() as transaction:
            storages.save(transaction, self._recorded(following))

    def finish(self) -> None:
        """Begin another generation when the service stops. A failure is only logged: ledger and storage still match."""
        try:
            self.advance()
        except (StorageUnavailable, OSError, LedgerError) as failure:
            log.warning("generation_not_advanced", error=describe_failure(failure))

    def _recorded(self, generation: int, following: int | None = None) -> RecordedStorage:
        return RecordedStorage(
            identity=self.marker.identity,
            generation=generation,
            next_generation=following,
            recorded_at=self.clock.now(),
        )


def _read(path: Path) -> int:
    """Return the generation; 0 if the marker has no generation, or one that cannot be parsed."""
    with path.open("rb") as file:
        file.seek(OFFSET)
        text = file.read(DIGITS)
    return int(text) if text.isdigit() else 0


def write_generation(path: Path, generation: int) -> None:
    """Write the generation to the marker of a storage, and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, f"{generation:0{DIGITS}}\n".encode(), OFFSET)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
