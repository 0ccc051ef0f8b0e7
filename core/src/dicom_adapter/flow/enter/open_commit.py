"""Entry of rows: the keys of an unfinished commit, whose objects the next start deletes if the process was killed.

    <data>/journals/<random>-<receiver>.commit

An instance without a recovery record is acknowledged after its row was entered. If its process is killed between the
sync and the row, its stored object has neither a row nor a record, and its sender has no answer. Therefore the receiver
writes the keys of each commit to a file before the sync, and empties the file before the answers. The objects in the
file of an ended process were never acknowledged, so the next start deletes those of them that have no row.

A start does not compare all keys of the storage with the ledger instead: it would read every key, and it could not
distinguish these objects from acknowledged instances whose rows were lost, for example with a ledger from a backup.

The file is not synced: it survives the end of a process. After a power loss, the disk may have an earlier content, with
keys that were acknowledged meanwhile. So the file is valid only until the computer is started again; what a power loss
leaves is found by an audit.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import structlog

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.flow.enter.journal import create_locked
from dicom_adapter.ledger import Ledger, instances

log = structlog.get_logger("dicom_adapter.store")

SUFFIX = ".commit"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # differs after each start of the computer (random(4))


class OpenCommit:
    """The file of one receiver process. Not thread-safe."""

    def __init__(self, folder: Path, receiver: str, backend: str) -> None:
        """Create the file in `folder` for a receiver and the name of its storage backend. Raises OSError."""
        self._path = folder / f"{uuid4().hex}-{receiver}{SUFFIX}"
        self._descriptor = create_locked(self._path)
        self._origin = _origin(backend)

    @contextmanager
    def of(self, keys: Sequence[str]) -> Iterator[None]:
        """Note the keys until the block ends. Errors of the file are ignored: then an audit finds the objects."""
        if not keys:
            yield
            return
        with suppress(OSError):
            os.pwrite(self._descriptor, orjson.dumps([*self._origin, keys]) + b"\n", 0)
        yield
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Delete the file. Call this after the last commit."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def delete_unanswered(folder: Path, storage: StorageBackend[Any], ledger: Ledger) -> int:
    """Delete the objects without a row in the commits of ended processes. Return their number.

    Raises the errors of the ledger, and OSError. Objects that the storage cannot delete are tried at the next start.
    """
    return sum(_delete_of(path, storage, ledger) for path in sorted(folder.glob(f"*{SUFFIX}")))


def _delete_of(path: Path, storage: StorageBackend[Any], ledger: Ledger) -> int:
    with suppress(FileNotFoundError), path.open("rb") as file:  # another receiver of the same start may be faster
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # its process lives, or another receiver deletes its objects
        keys = _keys(file.read(), storage.name)
        with ledger.read() as transaction:
            without_row = sorted(set(keys) - instances.keys_with_rows(transaction, keys))
        try:
            storage.delete(without_row)
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            log.warning("unanswered_objects_kept", count=len(without_row), error=describe_failure(failure))
            return 0
        path.unlink(missing_ok=True)  # only now: a start may be killed, too
        if without_row:
            log.warning("unanswered_objects_deleted", count=len(without_row))
        return len(without_row)
    return 0


def _keys(content: bytes, backend: str) -> Sequence[str]:
    """Return the keys in a file; none between commits, after a power loss, or if the keys are of another backend.

    An incomplete line is ignored, too: the sync of its objects had not begun.
    """
    if not content.endswith(b"\n"):
        return ()
    *origin, keys = orjson.loads(content)
    return keys if origin == _origin(backend) else ()


def _origin(backend: str) -> list[str]:
    return [BOOT_ID.read_text().strip() if BOOT_ID.exists() else "", backend]
