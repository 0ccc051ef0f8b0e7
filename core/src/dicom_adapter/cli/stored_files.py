"""Functions of commands that copy stored objects to files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from dicom_adapter.api.errors import Permanent, StorageUnavailable
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.cli.configuration import CheckedConfiguration
from dicom_adapter.cli.messages import fail
from dicom_adapter.runtime.data_folder import DataFolder


@frozen(kw_only=True)
class StoredFiles:
    """The open storage of a service, and the folder to which a command copies files."""

    storage: StorageBackend[Any]
    folder: Path

    def copy(
        self, export: Callable[[StorageBackend[Any], Any, Path], Path], one: Any, *, is_reclaimed: bool = False
    ) -> str:
        """Copy a file with `export`. Return why it was not copied; "" if it was."""
        try:
            export(self.storage, one, self.folder)
        except FileExistsError as failure:
            return f"{failure.filename} already exists"
        except Permanent as failure:
            return "it is reclaimed: its file was deleted" if is_reclaimed else str(failure)
        except OSError as failure:
            return f"it could not be copied: {failure.strerror}"
        return ""


@contextmanager
def open_stored_files(service: CheckedConfiguration, folder: Path = Path()) -> Iterator[StoredFiles]:
    """Context manager: open the storage of a service, and create `folder`. Ends the command if that is not possible."""
    config = service.loaded.config
    assert config is not None  # `open_service` has checked it
    data_folder = DataFolder.of(config)
    try:
        data_folder.require_there()
    except (StorageUnavailable, OSError) as failure:
        raise fail(str(failure)) from None
    storage = data_folder.open_storage(config.storage, service.plugins.catalogue())
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as failure:
            raise fail(f"{folder}: {failure.strerror}") from None
        yield StoredFiles(storage=storage, folder=folder)
    finally:
        storage.close()
