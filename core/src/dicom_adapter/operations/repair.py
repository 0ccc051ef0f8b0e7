"""Repair the findings of an audit, as far as this is safe. No other process may use the data folder during a repair.

A repair never deletes the only copy of a data set. A repair deletes an object without a row only if the ledger has
another arrival of the same data set, and either this arrival is no longer needed, or its object is complete.
Every other object of a received instance gets a row as a quarantined instance, and an operator decides. Outputs of jobs
get no row: their header may be that of a received instance, but their preamble is not (`dicom.part10.OUTPUT_PREAMBLE`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import field, frozen

from dicom_adapter.api.errors import DicomAdapterError, LedgerError, Refused
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.config.transfer_syntaxes import UNSUPPORTED_TRANSFER_SYNTAXES
from dicom_adapter.dicom.part10 import BEFORE_META, data_set_offset, file_header, has_empty_preamble
from dicom_adapter.dicom.part10_reader import FileOfUnknownOrigin, Part10Reader, checksum_start
from dicom_adapter.flow.verified_reader import VerifiedReader
from dicom_adapter.ledger import Transaction, attachments, balance, events, instances, results, series
from dicom_adapter.ledger.attachments import Attachment
from dicom_adapter.ledger.balance import ObjectRow
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.instances import UNNUMBERED
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.ledger.series import ArrivedSeries
from dicom_adapter.operations.audit import PIECE_BYTES, AuditReport, Finding, Kind
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.resources import Resources

# Reasons that a repair records in rows and events
WITHOUT_OBJECT = "the audit found no stored object"
WITHOUT_ROW = "the audit found its object without a row; whether it was acknowledged is unknown"
SAME_DATA_SET = "the audit found an object without a row that has the same data set as this instance"


@frozen(kw_only=True)
class RepairResult:
    """The result of the repair of one finding."""

    finding: Finding
    repaired: bool  # False: nothing was changed, and `text` is the reason
    text: str


@frozen(kw_only=True)
class _Orphan:
    """An object without a row."""

    beginning: bytes = field(repr=False)  # the first BEFORE_META bytes
    size_bytes: int
    file: FileOfUnknownOrigin


class NotRepairable(Refused):
    """A finding cannot be repaired safely."""


class Repair:
    """Repair of findings. Not thread-safe."""

    def __init__(self, resources: Resources) -> None:
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._repairs: dict[Kind, Callable[[Finding], str]] = {
            Kind.UNFINISHED: self._finish_reclaim,
            Kind.MISSING: self._quarantine,
            Kind.NOT_DELETED: self._delete_object,
            Kind.ORPHAN: self._resolve_orphan,
        }

    def run(self, report: AuditReport) -> Iterator[RepairResult]:
        """Repair the listed findings whose kinds can be repaired. Yield the result of each repair."""
        for kind, repair in self._repairs.items():
            for finding in report.found[kind].listed if kind in report.found else ():
                try:
                    yield RepairResult(finding=finding, repaired=True, text=repair(finding))
                except LedgerError:
                    raise
                except NotRepairable as refusal:
                    yield RepairResult(finding=finding, repaired=False, text=str(refusal))
                except (OSError, DicomAdapterError) as failure:
                    yield RepairResult(
                        finding=finding, repaired=False, text=f"the storage failed ({type(failure).__name__})"
                    )

    # --- rows -------------------------------------------------------------------------------------------------------

    def _finish_reclaim(self, finding: Finding) -> str:
        """Mark a released instance as reclaimed: no job needs it, and its object is deleted."""
        instance_id = _instance_id(finding)
        with self._ledger.write() as transaction:
            instances.mark_reclaimed(transaction, [instance_id], self._clock.now())
            self._record(
                transaction,
                "instance_reclaimed",
                finding.ae_title,
                instance_id,
                "the audit found that its object was deleted",
            )
        return f"instance {instance_id}: marked as reclaimed"

    def _quarantine(self, finding: Finding) -> str:
        """Quarantine a pending instance whose object is missing."""
        if finding.instance_id is None:  # an attachment
            raise NotRepairable(
                f"{finding.text}: restore it from a copy of the storage (a backup does not contain attachments)"
            )
        instance_id = finding.instance_id
        with self._ledger.write() as transaction:
            if not instances.quarantine(transaction, instance_id, WITHOUT_OBJECT, self._clock.now()):
                raise NotRepairable(
                    f"{finding.text}: restore its object from a backup, or discard it if it is quarantined, "
                    "or cancel its jobs"
                )
            self._record(transaction, "instance_quarantined", finding.ae_title, instance_id, WITHOUT_OBJECT)
        return f"instance {instance_id}: quarantined, because it has no object"

    def _delete_object(self, finding: Finding) -> str:
        """Delete the object of a reclaimed instance."""
        instance_id = _instance_id(finding)
        assert finding.storage_key is not None  # findings of this kind have one
        with self._ledger.read() as transaction:
            if balance.is_needed(transaction, instance_id):
                raise NotRepairable(f"{finding.text}: it is kept, because a job needs it")
        self._storage.delete([finding.storage_key])
        with self._ledger.write() as transaction:
            self._record(
                transaction,
                "object_deleted",
                finding.ae_title,
                instance_id,
                "the audit found the object of a reclaimed instance",
            )
        return f"instance {instance_id}: object deleted"

    # --- objects without rows ---------------------------------------------------------------------------------------

    def _resolve_orphan(self, finding: Finding) -> str:
        """Delete an object whose data set is already in the ledger; insert a row for any other object."""
        key = finding.storage_key
        assert key is not None  # findings of this kind have one
        orphan = self._read(key)
        copy = self._find_output(orphan)
        if copy:
            self._storage.delete([key])
            return f"object {key}: deleted, because {copy} has the same content"
        _require_received(key, orphan)
        known = self._find_arrival(orphan)
        if known is not None:
            return self._delete_duplicate(key, known)
        return self._adopt(key, orphan)

    def _read(self, key: str) -> _Orphan:
        """Read an object in pieces, so that memory does not depend on its size."""
        reader, beginning, size = Part10Reader(UNSUPPORTED_TRANSFER_SYNTAXES), b"", 0
        with self._storage.read(key) as file:
            while piece := file.read(PIECE_BYTES):
                beginning += piece[: max(0, BEFORE_META - len(beginning))]
                size += len(piece)
                reader.feed(piece)
        reader.end()
        return _Orphan(beginning=beginning, size_bytes=size, file=reader.result())

    def _find_output(self, orphan: _Orphan) -> str:
        """Return the result or attachment that makes an object redundant; "" if there is none.

        A crash during the collection of outputs leaves objects without rows. Then the outputs are collected again.
        """
        found = orphan.file
        with self._ledger.read() as transaction:
            instance_ids = results.with_content(transaction, found.size_bytes, found.checksum)
            rows = balance.object_rows(transaction, instance_ids)
            copies = attachments.with_content(transaction, found.size_bytes, found.checksum)
        for row in rows:
            if self._makes_redundant(row):
                return f"result {row.instance_id}"
        for attachment in copies:
            if self._has_complete_object(attachment):
                return f"attachment {attachment.instance_id}"
        return ""

    def _delete_duplicate(self, key: str, known: ObjectRow) -> str:
        self._storage.delete([key])
        with self._ledger.write() as transaction:
            self._record(transaction, "object_deleted", known.ae_title, known.instance_id, SAME_DATA_SET)
        return f"object {key}: deleted, because it has the same data set as instance {known.instance_id}"

    def _adopt(self, key: str, orphan: _Orphan) -> str:
        instance = _instance(key, orphan, self._clock)
        uids = instance.series_instance_uid, instance.study_instance_uid
        of_series = ArrivedSeries(*uids, instance.patient_id, **orphan.file.identity.look_up)
        with self._ledger.write() as transaction:
            series.enter(transaction, [of_series], instance.received_at)
            instance_id = balance.insert_quarantined(transaction, instance, WITHOUT_ROW)
            self._record(transaction, "instance_quarantined", instance.ae_title, instance_id, WITHOUT_ROW)
        return f"object {key}: quarantined as instance {instance_id} of {instance.ae_title}"

    def _find_arrival(self, orphan: _Orphan) -> ObjectRow | None:
        """Return another arrival of this data set at the same AE title that makes the object redundant, or None."""
        file = orphan.file
        with self._ledger.read() as transaction:
            arrivals = balance.arrivals(transaction, file.receiving_ae_title, file.identity.sop_instance_uid)
        size = orphan.size_bytes - data_set_offset(orphan.beginning)
        for instance, row in arrivals:
            same = (instance.checksum, instance.transfer_syntax_uid) == (file.checksum, file.transfer_syntax_uid)
            if same and size in _data_set_sizes(instance) and self._makes_redundant(row):
                return row
        return None

    def _makes_redundant(self, row: ObjectRow) -> bool:
        """Return whether this arrival is reclaimed and not needed, or has a complete object."""
        with self._ledger.read() as transaction:
            needed = balance.is_needed(transaction, row.instance_id)
        if row.state is InstanceState.RECLAIMED and not needed:
            return True
        return self._has_complete_object(row)

    def _has_complete_object(self, row: ObjectRow | Attachment) -> bool:
        try:
            with VerifiedReader(self._storage.read(row.storage_key), row) as reader:
                while reader.read(PIECE_BYTES):
                    pass
        except Exception:  # noqa: BLE001 - a plugin may raise anything; an unreadable object is not a copy
            return False
        return True

    def _record(self, transaction: Transaction, event: str, ae_title: str, instance_id: int, reason: str) -> None:
        detail = {"reason": reason}
        entry = Event(at=self._clock.now(), event=event, ae_title=ae_title, instance_id=instance_id, detail=detail)
        events.record(transaction, [entry])


def _instance_id(finding: Finding) -> int:
    assert finding.instance_id is not None  # findings of this kind have one
    return finding.instance_id


def _require_received(key: str, orphan: _Orphan) -> None:
    """Raise NotRepairable unless the object is certainly a complete instance that the adapter has received."""
    file = orphan.file
    if not file.is_part10:
        reason = "it is not a DICOM file"
    elif not has_empty_preamble(orphan.beginning):
        reason = (
            "it is an output of a job, stored before a crash, and not a received instance. The service collects the "
            "outputs of an unfinished job again; after that, another repair deletes equal objects"
        )
    elif not checksum_start(orphan.beginning):
        reason = "its header has no group length"
    elif file.problem:
        reason = file.problem
    elif not file.receiving_ae_title:
        reason = "an earlier version stored it without the called AE title"
    else:
        return
    raise NotRepairable(f"object {key} is kept: {reason}. Inspect it and move it out of the storage")


def _instance(key: str, orphan: _Orphan, clock: Clock) -> InstanceStorageInfo:
    """Return the instance that an object describes. Peer address, association and time of arrival are unknown."""
    identity = orphan.file.identity
    return InstanceStorageInfo(
        instance_id=UNNUMBERED,
        ae_title=orphan.file.receiving_ae_title,
        calling_ae_title=orphan.file.source_ae_title,
        peer_address="",
        association_id="",
        sop_class_uid=identity.sop_class_uid,
        sop_instance_uid=identity.sop_instance_uid,
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        transfer_syntax_uid=orphan.file.transfer_syntax_uid,
        patient_id=identity.patient_id,
        issuer_of_patient_id=identity.issuer_of_patient_id,
        received_at=clock.now(),
        storage_key=key,
        size_bytes=orphan.size_bytes,
        checksum=orphan.file.checksum,
    )


def _data_set_sizes(instance: InstanceStorageInfo) -> set[int]:
    """Return the possible sizes of the data set in bytes: earlier headers had no called AE title."""
    names = (
        instance.sop_class_uid,
        instance.sop_instance_uid,
        instance.transfer_syntax_uid,
        instance.calling_ae_title,
    )
    headers = (file_header(*names, instance.ae_title), file_header(*names))
    return {instance.size_bytes - len(header) for header in headers}
