"""Mends what an audit has found, as far as that is safe. Nobody else may work in the data folder meanwhile.

The only copy of anything is never deleted: an object without a row goes only when the ledger knows its data set from
another arrival, which nobody needs any more or whose own object was read and is whole. Otherwise it gets a row, and an
operator decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from attrs import frozen

from dicom_adapter.api.errors import DicomAdapterError, LedgerError, Refused
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.dicom.part10 import StoredFile, file_header, read_file
from dicom_adapter.flow.verified_reader import VerifiedReader
from dicom_adapter.ledger import Transaction, balance, events, instances
from dicom_adapter.ledger.balance import Kept
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.instances import UNNUMBERED
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.operations.audit import PIECE_BYTES, AuditReport, Finding, Kind
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.resources import Resources

WITHOUT_OBJECT = "found by audit without its stored object"
WITHOUT_ROW = "found by audit without a row: whether it was acknowledged is not known"
SAME_DATA_SET = "found by audit without a row: the same data set as this instance's"


@frozen(kw_only=True)
class Mended:
    """What became of a finding."""

    finding: Finding
    done: bool  # False: it is as it was, and `text` says why
    text: str


class NotMended(Refused):
    """A finding has to stay as it is."""


class Repair:
    """Used by one thread."""

    def __init__(self, resources: Resources) -> None:
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._ways: dict[Kind, Callable[[Finding], str]] = {
            Kind.UNFINISHED: self._finish,
            Kind.MISSING: self._quarantine,
            Kind.LEFT: self._delete_left,
            Kind.ORPHAN: self._place,
        }

    def mend(self, report: AuditReport) -> Iterator[Mended]:
        """Take the listed findings that can be mended one after the other."""
        for kind, way in self._ways.items():
            for finding in report.found[kind].listed if kind in report.found else ():
                try:
                    yield Mended(finding=finding, done=True, text=way(finding))
                except LedgerError:
                    raise
                except NotMended as refusal:
                    yield Mended(finding=finding, done=False, text=str(refusal))
                except (OSError, DicomAdapterError) as failure:
                    yield Mended(finding=finding, done=False, text=f"the storage failed ({type(failure).__name__})")

    # --- rows -------------------------------------------------------------------------------------------------------

    def _finish(self, finding: Finding) -> str:
        """Released, not needed, and its object is gone: reclaimed."""
        number = _number(finding)
        with self._ledger.write() as transaction:
            instances.mark_reclaimed(transaction, [number], self._clock.now())
            self._record(
                transaction, "instance_reclaimed", finding.ae_title, number, "found by audit: its object was gone"
            )
        return f"instance {number}: marked as reclaimed"

    def _quarantine(self, finding: Finding) -> str:
        """Pending, and its object is gone."""
        number = _number(finding)
        with self._ledger.write() as transaction:
            if not instances.quarantine(transaction, number, WITHOUT_OBJECT, self._clock.now()):
                raise NotMended(f"{finding.text}: put its object back, or give it up")
            self._record(transaction, "instance_quarantined", finding.ae_title, number, WITHOUT_OBJECT)
        return f"instance {number}: quarantined, because it has no object"

    def _delete_left(self, finding: Finding) -> str:
        """Reclaimed, and its object is there."""
        number = _number(finding)
        assert finding.storage_key is not None  # it is the object's
        with self._ledger.read() as transaction:
            if balance.is_needed(transaction, number):
                raise NotMended(f"{finding.text}: it stays, because a job needs it")
        self._storage.delete([finding.storage_key])
        with self._ledger.write() as transaction:
            self._record(transaction, "object_deleted", finding.ae_title, number, "found by audit: it is reclaimed")
        return f"instance {number}: its object is deleted"

    # --- objects without rows ---------------------------------------------------------------------------------------

    def _place(self, finding: Finding) -> str:
        """Delete what the ledger knows already, and give anything else a row."""
        key = finding.storage_key
        assert key is not None  # of the object
        with self._storage.read(key) as file:
            content = file.read()
        try:
            stored = read_file(content)
        except Refused as refusal:
            raise NotMended(f"object {key} stays where it is, and has to be looked at: {refusal}") from None
        if not stored.receiving_ae_title:
            raise NotMended(
                f"object {key} stays where it is: an earlier version stored it and did not write for which AE title"
            )
        known = self._known(stored)
        if known is not None:
            return self._delete_known(key, known)
        return self._adopt(key, stored, len(content))

    def _delete_known(self, key: str, known: Kept) -> str:
        self._storage.delete([key])
        with self._ledger.write() as transaction:
            self._record(transaction, "object_deleted", known.ae_title, known.instance_id, SAME_DATA_SET)
        return f"object {key}: deleted, it is the same data set as instance {known.instance_id}"

    def _adopt(self, key: str, stored: StoredFile, size: int) -> str:
        instance = _instance(key, stored, size, self._clock)
        with self._ledger.write() as transaction:
            number = balance.adopt(transaction, instance, WITHOUT_ROW)
            self._record(transaction, "instance_quarantined", instance.ae_title, number, WITHOUT_ROW)
        return f"object {key}: quarantined as instance {number} of {instance.ae_title}"

    def _known(self, stored: StoredFile) -> Kept | None:
        """Another arrival of the same data set at the same AE title that makes this object dispensable."""
        with self._ledger.read() as transaction:
            found = balance.arrivals(transaction, stored.receiving_ae_title, stored.identity.sop_instance_uid)
        checksum = zlib.crc32(stored.data_set)
        for instance, row in found:
            same = (instance.checksum, instance.transfer_syntax_uid) == (checksum, stored.transfer_syntax_uid)
            if same and len(stored.data_set) in _data_set_sizes(instance) and self._is_safe(row):
                return row
        return None

    def _is_safe(self, row: Kept) -> bool:
        """Whether nobody needs this arrival's data any more, or they are there."""
        with self._ledger.read() as transaction:
            needed = balance.is_needed(transaction, row.instance_id)
        if row.state is InstanceState.RECLAIMED and not needed:
            return True
        return self._is_whole(row)

    def _is_whole(self, row: Kept) -> bool:
        try:
            with VerifiedReader(self._storage.read(row.storage_key), row) as reader:
                while reader.read(PIECE_BYTES):
                    pass
        except Exception:  # noqa: BLE001 - whatever is the matter with it, it cannot be relied on
            return False
        return True

    def _record(self, transaction: Transaction, event: str, ae_title: str, number: int, reason: str) -> None:
        detail = {"reason": reason}
        happened = Event(at=self._clock.now(), event=event, ae_title=ae_title, instance_id=number, detail=detail)
        events.record(transaction, [happened])


def _number(finding: Finding) -> int:
    assert finding.instance_id is not None  # of this kind of finding
    return finding.instance_id


def _instance(key: str, stored: StoredFile, size: int, clock: Clock) -> InstanceStorageInfo:
    """What can be told of an object: who sent it, not from where nor when."""
    identity = stored.identity
    return InstanceStorageInfo(
        instance_id=UNNUMBERED,
        ae_title=stored.receiving_ae_title,
        calling_ae_title=stored.source_ae_title,
        peer_address="",
        association_id="",
        sop_class_uid=identity.sop_class_uid,
        sop_instance_uid=identity.sop_instance_uid,
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        transfer_syntax_uid=stored.transfer_syntax_uid,
        patient_id=identity.patient_id,
        issuer_of_patient_id=identity.issuer_of_patient_id,
        received_at=clock.now(),
        storage_key=key,
        size_bytes=size,
        checksum=zlib.crc32(stored.data_set),
    )


def _data_set_sizes(instance: InstanceStorageInfo) -> set[int]:
    """Without the header, in bytes: that of this version, or of an earlier one that did not name the receiver."""
    names = (
        instance.sop_class_uid,
        instance.sop_instance_uid,
        instance.transfer_syntax_uid,
        instance.calling_ae_title,
    )
    headers = (file_header(*names, instance.ae_title), file_header(*names))
    return {instance.size_bytes - len(header) for header in headers}
