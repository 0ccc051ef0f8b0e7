"""A receiver and the follower of a host, in the process of the test: each step is called by the test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement

from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.enter import open_commit
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.follower import Follower
from dicom_adapter.flow.enter.instance_log import InstanceLog
from dicom_adapter.flow.enter.journal import journals
from dicom_adapter.flow.enter.progress import FollowerProgress
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import instances, receiver_runs
from dicom_adapter.ledger.health import HOST, RECEIVER
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter
from support.local_storage import kill_local_storage

CONFIGURATION = """
[storage]
backend = "local"
path = "data"
[submitters.platform]
type = "memory"
[ae-titles.KEEP.settings]
timeout = 1000
pipeline-one = "p1"
"""


class Sender:
    """A store with a log, as in a receiver."""

    def __init__(self, adapter: Any, folder: Path, name: str = RECEIVER, **options: Any) -> None:
        """Enter what earlier stores have left, then open the log. `options` are those of the store.

        `adapter` has the attributes `config`, `resources` and `storage`.
        """
        self.adapter = adapter
        self.store = Store(adapter.config, adapter.resources, name=name, **options)
        self.recovered = self.store.recover()
        log = self.store.open_log(folder)
        assert log is not None  # because `local` keeps recovery records
        self.log: InstanceLog = log
        [self.journal] = [path for path in journals(folder) if self.run in path.name]

    @property
    def run(self) -> str:
        """The receiver run."""
        assert self.store._recovery_records is not None
        return self.store._recovery_records.receiver_run

    def arrive(self, uid: str, content: str = "", patient: str = "P1") -> ReceivedInstance:
        """Receive an instance completely, but do not commit it."""
        data_set = make_instance(rows=2, columns=2, seed=uid + content)
        data_set.SOPInstanceUID = uid
        data_set.add(DataElement("PatientID", "LO", patient, validation_mode=IGNORE))
        incoming = self.store.begin(make_request(data_set, "KEEP", "CT1", "0" * 32))
        incoming.write([encode(data_set)])
        received = self.store.end(incoming)
        assert isinstance(received, ReceivedInstance)
        return received

    def send(self, *uids: str, content: str = "") -> list[StoreResult]:
        """Receive instances and commit them in one group."""
        return self.store.commit([self.arrive(uid, content) for uid in uids])

    def kill(self) -> None:
        """End as a killed process: release all locks, and delete nothing."""
        self.log.end()
        self.log.close()
        assert self.store._open_commit is not None  # the log is open
        os.close(self.store._open_commit._descriptor)
        kill_local_storage(self.adapter.storage)


class Site:
    """A receiver and the follower of a host, on one data folder."""

    def __init__(self, adapter: Adapter, folder: Path) -> None:
        self.adapter = adapter
        self.folder = folder / "journals"
        self.entered: list[str] = []  # SOP Instance UIDs of the rows, as the follower reports them
        self.receiver = Sender(adapter, self.folder)
        self.follow_again()

    def receive_again(self, **options: Any) -> Sender:
        """Start another receiver run."""
        self.receiver = Sender(self.adapter, self.folder, **options)
        return self.receiver

    def follow_again(self) -> None:
        """Start a host that knows nothing of earlier ones."""
        entry = RowEntry(self.adapter.config, self.adapter.resources, HOST)
        self.follower = Follower(self.folder, entry, self.adapter.resources, self._note)

    def _note(self, results: Sequence[StoreResult]) -> None:
        self.entered += [result.instance.sop_instance_uid for result in results if result.instance is not None]

    @property
    def journal_files(self) -> set[Path]:
        """The journals, and all that belongs to them."""
        return {path for path in self.folder.iterdir() if path.suffix != open_commit.SUFFIX}

    @property
    def rows(self) -> list[str]:
        """The SOP Instance UIDs of all pending rows, in their order."""
        with self.adapter.ledger.read() as transaction:
            return [row.sop_instance_uid for row in instances.pending_after(transaction, 0, 1000, "KEEP")]

    @property
    def marks(self) -> dict[str, int]:
        """The high-water mark of each receiver run."""
        with self.adapter.ledger.read() as transaction:
            return receiver_runs.high_water_marks(transaction)

    @property
    def progress(self) -> FollowerProgress:
        """The progress of the current receiver run."""
        return self.receiver.log.progress


def uids(first: int, last: int) -> list[str]:
    """Return SOP Instance UIDs that end with these numbers."""
    return [f"1.2.{number}" for number in range(first, last + 1)]
