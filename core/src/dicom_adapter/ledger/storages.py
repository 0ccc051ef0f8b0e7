"""The storage that belongs to the ledger.

Each storage has an identity, and a generation that increases at the start and at the stop of a service, and every hour.
The ledger and the storage record both. So a ledger that is used with another storage, or with an older or a newer state
of its storage, is noticed at the next start.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from attrs import asdict, frozen
from sqlalchemy import delete, select

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import storages


class StorageMismatch(Enum):
    """The reason why a ledger and a storage do not belong together."""

    OTHER_STORAGE = "the ledger belongs to another storage"
    OLDER_STORAGE = "the storage is older than the ledger, as after a restore from a backup"
    OLDER_LEDGER = "the ledger is older than the storage, as after a restore from a backup"
    NEW_LEDGER = "the ledger is new, but the storage belongs to another ledger"


@frozen(kw_only=True)
class RecordedStorage:
    """The record of the storage that belongs to the ledger."""

    identity: str  # UUID
    generation: int
    next_generation: int | None = None  # if not None, the storage has either this generation or `generation`
    recorded_at: datetime  # UTC


def load(transaction: Transaction) -> RecordedStorage | None:
    """Return the storage that belongs to the ledger; None if no service has recorded it yet."""
    row = transaction.execute(select(storages)).one_or_none()
    return None if row is None else RecordedStorage(**row._mapping)


def save(transaction: Transaction, storage: RecordedStorage) -> None:
    """Record the storage that belongs to the ledger; it replaces an earlier record."""
    transaction.execute(delete(storages))
    transaction.execute(storages.insert().values(**asdict(storage)))


def compare(recorded: RecordedStorage | None, identity: str, generation: int) -> StorageMismatch | None:
    """Return why a ledger and a storage do not belong together; None if they may be used together.

    `generation`: 0 for a storage that no service has used with a ledger yet.
    """
    if recorded is None:
        return StorageMismatch.NEW_LEDGER if generation else None
    if recorded.identity != identity:
        # Without a generation, an operator has confirmed that the storage is new.
        return StorageMismatch.OTHER_STORAGE if generation else None
    if generation in (recorded.generation, recorded.next_generation):
        return None
    return StorageMismatch.OLDER_STORAGE if generation < recorded.generation else StorageMismatch.OLDER_LEDGER
