"""The storage that belongs to a ledger: which storages are refused."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from dicom_adapter.ledger import Ledger, storages
from dicom_adapter.ledger.storages import RecordedStorage, StorageMismatch

OWN, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)
NEW = 0  # generation of a storage that no service has used with a ledger


def recorded(generation: int, next_generation: int | None = None) -> RecordedStorage:
    return RecordedStorage(identity=OWN, generation=generation, next_generation=next_generation, recorded_at=NOW)


def test_the_last_recorded_storage_belongs_to_the_ledger(ledger: Ledger) -> None:
    with ledger.write() as transaction:
        assert storages.load(transaction) is None
        storages.save(transaction, recorded(1, 2))
        assert recorded(1, 2) == storages.load(transaction)
        storages.save(transaction, RecordedStorage(identity=OTHER, generation=7, recorded_at=NOW))
    with ledger.read() as transaction:
        loaded = storages.load(transaction)
    assert loaded is not None
    assert (OTHER, 7, None) == (loaded.identity, loaded.generation, loaded.next_generation)


@pytest.mark.parametrize(
    ("of_ledger", "identity", "generation", "mismatch"),
    [
        (None, OWN, NEW, None),
        (None, OWN, 1, StorageMismatch.NEW_LEDGER),
        (recorded(3), OWN, 3, None),
        (recorded(3), OWN, 2, StorageMismatch.OLDER_STORAGE),
        (recorded(3), OWN, NEW, StorageMismatch.OLDER_STORAGE),
        (recorded(3), OWN, 4, StorageMismatch.OLDER_LEDGER),
        (recorded(3, 4), OWN, 3, None),
        (recorded(3, 4), OWN, 4, None),
        (recorded(3, 4), OWN, 2, StorageMismatch.OLDER_STORAGE),
        (recorded(3, 4), OWN, 5, StorageMismatch.OLDER_LEDGER),
        (recorded(3), OTHER, 3, StorageMismatch.OTHER_STORAGE),
        (recorded(3), OTHER, NEW, None),
    ],
)
def test_a_ledger_and_a_storage_belong_together_if_both_have_the_same_generation(
    of_ledger: RecordedStorage | None, identity: str, generation: int, mismatch: StorageMismatch | None
) -> None:
    """If the ledger has two generations, the storage may have either: a service ended between the two writes."""
    assert mismatch is storages.compare(of_ledger, identity, generation)
