"""The built-in storage backends pass the conformance suite."""

from __future__ import annotations

from typing import Any

from dicom_adapter import StorageBackend
from dicom_adapter.storage.files import FileStorage
from dicom_adapter.storage.local.backend import LocalStorage
from dicom_adapter.testing import BaseStorageBackendTests
from support.local_storage import kill_local_storage


class TestLocal(BaseStorageBackendTests):
    """`local`: several instances in each segment file."""

    backend = LocalStorage

    def kill(self, storage: StorageBackend[Any]) -> None:
        assert isinstance(storage, LocalStorage)
        kill_local_storage(storage)


class TestFiles(BaseStorageBackendTests):
    """`files`: one file for each instance."""

    backend = FileStorage

    def leftovers(self, storage: StorageBackend[Any]) -> int:
        return len([path for path in (storage.context.path / "instances").rglob("*") if path.is_file()])
