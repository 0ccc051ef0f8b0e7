"""Storage commitment (PS3.4 annex J): requests, reports, and the files in which both survive a restart.

Each run of a job has a folder:

    references    a line for each delivered instance: SOP Class UID, SOP Instance UID
    request.json  the last request: its transaction UID and its time
    report.json   the report of the node: the instances that it has not committed, with the reasons
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from attrs import frozen
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dicom_adapter import Permanent, Retriable
from dicom_adapter_delivery.dicom_statuses import describe_store_status
from dicom_adapter_delivery.dicom_wire import Pair

COMMITMENT = Pair("1.2.840.10008.1.20.1", "1.2.840.10008.1.2")  # SOP class and transfer syntax
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_COMMITMENT = 1  # action type ID (PS3.4 section J.3.2)
PROCESSING_FAILURE, NO_SUCH_INSTANCE, RESOURCE_LIMITATION = 0x0110, 0x0112, 0x0213  # failure reasons
# The node may commit the instances later: it has not processed them yet, or has no resources. 0: not in the report.
TRANSIENT_REASONS = frozenset({PROCESSING_FAILURE, NO_SUCH_INSTANCE, RESOURCE_LIMITATION, 0})
RUN_ID = re.compile(r"[0-9a-f]{32}(-[0-9]{1,6})?")  # a job's id; from the second run on also the number of the run


class UnreadableReport(ValueError):
    """A report is not a data set as PS3.4 section J.3.3 defines it."""


@frozen(kw_only=True)
class Report:
    """The content of an N-EVENT-REPORT."""

    transaction_uid: str
    committed: frozenset[str]  # SOP Instance UIDs
    failed: Mapping[str, int]  # failure reason by SOP Instance UID


@frozen(kw_only=True)
class Request:
    """A request for storage commitment that was sent, or is about to be sent."""

    transaction_uid: str
    requested_at: float  # seconds since the epoch


def parse_report(content: bytes) -> Report:
    """Parse the data set of a report in implicit VR little endian. Raises UnreadableReport."""
    return report_of(lambda: read_dataset(BytesIO(content), is_implicit_VR=True, is_little_endian=True))


def report_of(decode: Callable[[], Dataset]) -> Report:
    """Return the content of the data set that `decode` returns. Raises UnreadableReport."""
    try:
        data_set = decode()
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or PROCESSING_FAILURE)
            for item in data_set.get("FailedSOPSequence") or ()
        }
        committed = {str(item.ReferencedSOPInstanceUID) for item in data_set.get("ReferencedSOPSequence") or ()}
        transaction_uid = str(data_set.TransactionUID)
    except Exception as failure:  # noqa: BLE001 - pydicom raises many types for bytes that are not a data set
        raise UnreadableReport(f"it cannot be parsed ({type(failure).__name__})") from None
    return Report(transaction_uid=transaction_uid, committed=frozenset(committed), failed=failed)


def encode_request(transaction_uid: str, references: Mapping[str, str]) -> bytes:
    """Encode the data set of an N-ACTION for instances: SOP class by SOP Instance UID."""
    data_set = Dataset()
    data_set.TransactionUID = transaction_uid
    data_set.ReferencedSOPSequence = []
    for instance, sop_class in references.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        data_set.ReferencedSOPSequence.append(item)
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = True, True
    write_dataset(file, data_set)
    return file.getvalue()


class CommitmentFiles:
    """The folders of all runs of jobs. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "commitment"
        self._lock = threading.Lock()

    def open(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(self, run_id: str, sop_class_uid: str, sop_instance_uid: str) -> None:
        """Record a delivered instance. It is durable when the method returns."""
        line = f"{sop_class_uid} {sop_instance_uid}\n".encode("ascii")
        with self._lock, _as_retriable():
            folder = self._make_folder(run_id)
            with (folder / "references").open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def references(self, run_id: str) -> Mapping[str, str]:
        """Return the delivered instances: SOP class by SOP Instance UID."""
        with self._lock, _as_retriable():
            path = self._folder(run_id) / "references"
            lines = path.read_text(encoding="ascii").split("\n")[:-1] if path.exists() else []
        # After a crash, lines may be incomplete.
        pairs = (line.split(" ") for line in lines)
        return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}

    def new_request(self, run_id: str, now: float) -> Request:
        """Record a request with a new transaction UID. It replaces the earlier request and its report."""
        request = Request(transaction_uid=f"2.25.{uuid.uuid4().int}", requested_at=now)
        content = {"transactionUid": request.transaction_uid, "requestedAt": now}
        with self._lock, _as_retriable():
            _write(self._make_folder(run_id) / "request.json", content)
            (self._folder(run_id) / "report.json").unlink(missing_ok=True)
        return request

    def request(self, run_id: str) -> Request | None:
        content = self._read(run_id, "request.json")
        if content is None:
            return None
        return Request(transaction_uid=content["transactionUid"], requested_at=content["requestedAt"])

    def keep(self, report: Report) -> bool:
        """Record a report if it answers the last request of a run, and return whether it does.

        The record is durable when the method returns.
        """
        for run_id in self._runs():
            request = self.request(run_id)
            if request is not None and request.transaction_uid == report.transaction_uid:
                missing = self.references(run_id).keys() - report.committed
                content = {uid: report.failed.get(uid, 0) for uid in sorted(missing)}
                with self._lock, _as_retriable():
                    _write(self._make_folder(run_id) / "report.json", {"notCommitted": content})
                return True
        return False

    def not_committed(self, run_id: str) -> Mapping[str, int] | None:
        """Return the failure reasons of the instances that are not committed; None if there is no report yet.

        The reason is 0 if the report does not mention the instance.
        """
        content = self._read(run_id, "report.json")
        return None if content is None else dict(content["notCommitted"])

    def remove(self, run_id: str) -> None:
        shutil.rmtree(self._folder(run_id), ignore_errors=True)

    def _runs(self) -> Iterator[str]:
        with _as_retriable():
            names = [path.name for path in self._root.iterdir()]
        yield from filter(RUN_ID.fullmatch, names)

    def _folder(self, run_id: str) -> Path:
        if not RUN_ID.fullmatch(run_id):
            raise Permanent(f"the run {run_id!r} cannot be the name of a folder")
        return self._root / run_id

    def _make_folder(self, run_id: str) -> Path:
        folder = self._folder(run_id)
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            _sync(folder.parent)
        return folder

    def _read(self, run_id: str, name: str) -> Any:
        path = self._folder(run_id) / name
        with self._lock, _as_retriable():
            return json.loads(path.read_bytes()) if path.exists() else None


@contextmanager
def _as_retriable() -> Iterator[None]:
    """Turn errors of the file system, and those of damaged files, into Retriable."""
    try:
        yield
    except (OSError, ValueError, KeyError) as failure:
        raise Retriable(f"the files about storage commitment cannot be used ({type(failure).__name__})") from failure


def describe_missing(reasons: Mapping[str, int]) -> str:
    """Return why instances are not committed, for operators."""
    uid, reason = next(iter(reasons.items()))
    words = describe_store_status(reason) if reason else "it is not in the report"
    if len(reasons) == 1:
        return f"instance {uid} is not committed: {words}"
    return f"{len(reasons)} instances are not committed, such as {uid}: {words}"


def _write(path: Path, content: Mapping[str, object]) -> None:
    """Replace a file atomically and durably."""
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
