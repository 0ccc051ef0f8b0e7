"""Step 2: keep the data set as it came, then write its row; only then may C-STORE answer success.

Whatever fails on the way, the peer gets a failure status (PS3.4 section B.2.3) and nothing is kept.
"""

from __future__ import annotations

import errno
import zlib
from enum import IntEnum

import structlog
from attrs import evolve, frozen
from sqlalchemy.exc import SQLAlchemyError

from dicom_adapter.clock import Clock
from dicom_adapter.config.model import AeTitleConfig, Config
from dicom_adapter.errors import StorageFull
from dicom_adapter.ledger import Ledger, Transaction, instances
from dicom_adapter.ledger.instances import UNNUMBERED
from dicom_adapter.model import InstanceStorageInfo
from dicom_adapter.part10 import BEFORE_META, Identity, Mismatch, Unreadable, data_set_offset, file_header, identify
from dicom_adapter.storage import InstanceWriter, StorageBackend

log = structlog.get_logger("dicom_adapter.store")


class Status(IntEnum):
    """C-STORE response statuses (PS3.4 table B.2-1, PS3.7 annex C)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


@frozen(kw_only=True)
class Received:
    """One C-STORE request with its data set."""

    ae_title: str  # called
    calling_ae_title: str
    peer_address: str
    association_id: str
    sop_class_uid: str  # Affected SOP Class UID
    sop_instance_uid: str  # Affected SOP Instance UID
    transfer_syntax_uid: str
    data_set: bytes


@frozen(kw_only=True)
class Answer:
    """What C-STORE answers, and why."""

    status: Status
    why: str = ""
    instance: InstanceStorageInfo | None = None  # when it was kept
    repeats: int | None = None  # the pending instance that it is again, because of which it was not kept


class Store:
    """Used from many threads at once."""

    def __init__(self, config: Config, storage: StorageBackend[object], ledger: Ledger, clock: Clock) -> None:
        self._config = config
        self._storage = storage
        self._ledger = ledger
        self._clock = clock

    def store(self, received: Received) -> Answer:
        """Keep what was received; returns when it is durable, or when it is certain that it was not kept."""
        ae_title = self._config.ae_titles[received.ae_title]
        if received.sop_class_uid in ae_title.ignored_sop_classes:
            return Answer(status=Status.SUCCESS, why="its SOP class is among ignored-sop-classes")
        try:
            return self._keep(received, ae_title, _identify(received))
        except Mismatch as refusal:
            return Answer(status=Status.DATA_SET_DOES_NOT_MATCH, why=str(refusal))
        except Unreadable as refusal:
            return Answer(status=Status.CANNOT_UNDERSTAND, why=str(refusal))
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            return _failure(failure)

    def _keep(self, received: Received, ae_title: AeTitleConfig, identity: Identity) -> Answer:
        header = file_header(
            identity.sop_class_uid,
            identity.sop_instance_uid,
            received.transfer_syntax_uid,
            received.calling_ae_title,
            received.ae_title,
        )
        writer = self._storage.writer()
        try:
            key = _write(writer, header, received.data_set)
            self._storage.sync([key])
        except BaseException:
            writer.discard()
            raise
        instance = self._describe(received, identity, key, len(header) + len(received.data_set))
        return self._enter(instance, ae_title)

    def _enter(self, instance: InstanceStorageInfo, ae_title: AeTitleConfig) -> Answer:
        """Write the row; without it the stored object has never been."""
        try:
            with self._ledger.write() as transaction:
                # Stamped while holding the right to write, so that the order of rows is the order of these times.
                instance = evolve(instance, received_at=self._clock.now())
                answer = self._insert(transaction, instance, ae_title)
        except BaseException:
            self._delete_without_row(instance)
            raise
        if answer.instance is None:
            self._storage.delete([instance.storage_key])
        return answer

    def _insert(self, transaction: Transaction, instance: InstanceStorageInfo, ae_title: AeTitleConfig) -> Answer:
        """Enter it, unless one with the same SOP Instance UID is pending and is not to be overwritten."""
        pending = instances.find_pending(transaction, instance.ae_title, instance.sop_instance_uid)
        if pending is None:
            return Answer(status=Status.SUCCESS, instance=instances.insert(transaction, instance))
        if ae_title.overwrite_same_instance:
            return Answer(status=Status.SUCCESS, instance=instances.replace(transaction, pending, instance))
        if self._is_same(pending, instance):
            return Answer(
                status=Status.SUCCESS, why="the same data set is pending already", repeats=pending.instance_id
            )
        why = "another data set with this SOP Instance UID is pending; overwrite-same-instance = false keeps that one"
        return Answer(status=Status.DUPLICATE_SOP_INSTANCE, why=why, repeats=pending.instance_id)

    def _is_same(self, one: InstanceStorageInfo, other: InstanceStorageInfo) -> bool:
        """Whether they are one data set, whoever sent them."""
        if (one.checksum, one.transfer_syntax_uid) != (other.checksum, other.transfer_syntax_uid):
            return False
        return self._data_set_bytes(one) == self._data_set_bytes(other)

    def _data_set_bytes(self, instance: InstanceStorageInfo) -> int:
        # The header names sender and receiver, and earlier versions wrote a shorter one. That the object is there at
        # all counts as well: on the strength of a lost one nothing may be acknowledged.
        with self._storage.read(instance.storage_key) as file:
            return instance.size_bytes - data_set_offset(file.read(BEFORE_META))

    def _delete_without_row(self, instance: InstanceStorageInfo) -> None:
        """After a failed transaction. A row that came about all the same must keep its stored object."""
        try:
            with self._ledger.read() as transaction:
                pending = instances.find_pending(transaction, instance.ae_title, instance.sop_instance_uid)
        except SQLAlchemyError as failure:
            log.warning("stored_object_left", storage_key=instance.storage_key, error=type(failure).__name__)
            return
        if pending is None or pending.storage_key != instance.storage_key:
            self._storage.delete([instance.storage_key])

    def _describe(self, received: Received, identity: Identity, key: str, size: int) -> InstanceStorageInfo:
        return InstanceStorageInfo(
            instance_id=UNNUMBERED,
            ae_title=received.ae_title,
            calling_ae_title=received.calling_ae_title,
            peer_address=received.peer_address,
            association_id=received.association_id,
            sop_class_uid=identity.sop_class_uid,
            sop_instance_uid=identity.sop_instance_uid,
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            transfer_syntax_uid=received.transfer_syntax_uid,
            patient_id=identity.patient_id,
            issuer_of_patient_id=identity.issuer_of_patient_id,
            received_at=self._clock.now(),
            storage_key=key,
            size_bytes=size,
            checksum=zlib.crc32(received.data_set),
        )


def _identify(received: Received) -> Identity:
    identity = identify(received.data_set, received.transfer_syntax_uid)
    if identity.sop_instance_uid != received.sop_instance_uid:
        raise Mismatch("the data set's SOP Instance UID is not the request's Affected SOP Instance UID")
    if identity.sop_class_uid != received.sop_class_uid:
        raise Mismatch("the data set's SOP Class UID is not the request's Affected SOP Class UID")
    return identity


def _write(writer: InstanceWriter, *pieces: bytes) -> str:
    for piece in pieces:
        writer.write(piece)
    return writer.finish()


def is_lack_of_room(failure: Exception) -> bool:
    """Whether the disk of storage or ledger is full."""
    full = isinstance(failure, StorageFull) or getattr(failure, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or "disk is full" in str(getattr(failure, "orig", ""))  # SQLite's words, without the statement's values


def _failure(failure: Exception) -> Answer:
    """Out of resources when that is the cause, so that the peer tries again later; else a processing failure."""
    if is_lack_of_room(failure):
        return Answer(status=Status.OUT_OF_RESOURCES, why="there is no room left")
    log.error("store_failed", error=type(failure).__name__, errno=getattr(failure, "errno", None))
    return Answer(status=Status.PROCESSING_FAILURE, why=f"it could not be kept ({type(failure).__name__})")
