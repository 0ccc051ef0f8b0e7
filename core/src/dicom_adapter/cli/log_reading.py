"""Read the log of a service, for commands that also show instances without a row in the ledger."""

from __future__ import annotations

import json
from pathlib import Path

from dicom_adapter.api.errors import DicomAdapterError, describe_failure
from dicom_adapter.cli.configuration import check_text
from dicom_adapter.cli.messages import warn
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger import Ledger, configurations
from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.operations.not_entered import logged
from dicom_adapter.runtime.data_folder import DataFolder


def read_log(ledger: Ledger) -> list[ReceivedInstance]:
    """Return the instances of the log of the service that used the ledger last. Many of them have rows.

    While the service runs, the journals are complete. Otherwise a power loss may have destroyed a journal. Then the
    storage backend is read, too, after its plugin was loaded. Prints a warning if the log cannot be read.
    """
    with ledger.read() as transaction:
        running = configurations.running(transaction)
    if running is None:
        return []  # no service has used the ledger
    folder = DataFolder(Path(json.loads(running.settings["service"]["storage.path"])))
    if folder.is_missing:
        return []  # `status` reports it
    try:
        return logged(folder.path, None) if folder.is_used else _read_with_storage(folder, running)
    except (OSError, DicomAdapterError) as failure:
        warn(
            "instances that are not yet entered in the ledger are not shown, because the log cannot be read: "
            f"{describe_failure(failure)}"
        )
        return []


def _read_with_storage(folder: DataFolder, running: Configuration) -> list[ReceivedInstance]:
    checked = check_text(running.text, Path(running.folder))
    if checked.loaded.config is None:
        return logged(folder.path, None)
    storage = folder.open_storage(checked.loaded.config.storage, checked.plugins.catalogue())
    try:
        return logged(folder.path, storage)
    finally:
        storage.close()
