"""Opening what receiver and host share: the storage backend and the ledger."""

from __future__ import annotations

from typing import Any

from dicom_adapter.config.model import Config, Durability
from dicom_adapter.hookspecs import Catalogue
from dicom_adapter.ledger import Ledger
from dicom_adapter.storage import StorageBackend, StorageContext


def open_storage(config: Config, catalogue: Catalogue) -> StorageBackend[Any]:
    """The configured storage backend, ready for use in this process."""
    _make_folder(config)
    context = StorageContext(path=config.storage.path, durable=is_durable(config))
    backend = catalogue.storage_backends[config.storage.backend](config.storage.settings, context)
    backend.open()
    return backend


def open_ledger(config: Config) -> Ledger:
    """The configured ledger; its schema is brought up to date by the host alone."""
    _make_folder(config)
    return Ledger(config.ledger_url, durable=is_durable(config))


def _make_folder(config: Config) -> None:
    config.storage.path.mkdir(parents=True, exist_ok=True, mode=0o700)


def is_durable(config: Config) -> bool:
    """Whether what was acknowledged survives a power loss, not just the end of a process."""
    return config.storage.durability is Durability.FSYNC
