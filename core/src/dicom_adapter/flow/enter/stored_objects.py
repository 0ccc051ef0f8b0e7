"""Entry of rows: delete stored objects that get no row in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.flow.enter.received_instance import ReceivedInstance

log = structlog.get_logger("dicom_adapter.store")


def delete_stored_objects(storage: StorageBackend[Any], received: Sequence[ReceivedInstance]) -> None:
    """Delete the objects of instances that get no row. Never raises: an audit finds what was not deleted."""
    if received:
        try:
            storage.delete([instance.storage_key for instance in received])
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            log.warning("stored_object_deletion_failed", count=len(received), error=type(failure).__name__)
