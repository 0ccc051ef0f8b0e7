"""Step 2: keep the data set as it comes, then write its row; only then may C-STORE answer success.

    begin    the header of a Part 10 file goes to the storage backend
    write    every piece of the data set follows as it comes; held here is what says which instance it is
    end      it is complete: an `Arrival` that waits for its commit, or it is refused
    commit   all that waits becomes durable with one sync, and gets its rows in one transaction

Whatever fails on the way, the peer gets a failure status (PS3.4 section B.2.3) and nothing is kept.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any

import structlog
from attrs import define, evolve, field, frozen
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from dicom_adapter.checksum import crc32
from dicom_adapter.clock import Clock
from dicom_adapter.config.model import AeTitleConfig, Config
from dicom_adapter.errors import StorageFull
from dicom_adapter.identity import Identity, IdentityReader, Mismatch, Unreadable
from dicom_adapter.ledger import Ledger, Transaction, arrivals, instances
from dicom_adapter.ledger.instances import UNNUMBERED
from dicom_adapter.model import InstanceStorageInfo
from dicom_adapter.part10 import BEFORE_META, data_set_offset, file_header
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
class StoreRequest:
    """A C-STORE request, before its data set."""

    ae_title: str  # called
    calling_ae_title: str
    peer_address: str
    association_id: str
    sop_class_uid: str  # Affected SOP Class UID
    sop_instance_uid: str  # Affected SOP Instance UID
    transfer_syntax_uid: str


@frozen(kw_only=True)
class Answer:
    """What C-STORE answers, and why."""

    status: Status
    why: str = ""
    instance: InstanceStorageInfo | None = None  # when it was kept
    repeats: int | None = None  # the pending instance that it is again, because of which it was not kept


@frozen(kw_only=True)
class Arrival:
    """An instance whose data set is complete, and which is not durable yet."""

    request: StoreRequest
    identity: Identity
    storage_key: str
    size_bytes: int  # of the stored Part 10 file
    checksum: int  # CRC-32 of the encoded data set

    def row(self, received_at: int) -> tuple[object, ...]:
        """Its row, in the order of `arrivals.COLUMNS`."""
        request, identity = self.request, self.identity
        return (
            request.ae_title,
            request.calling_ae_title,
            request.peer_address,
            request.association_id,
            identity.sop_class_uid,
            identity.sop_instance_uid,
            identity.study_instance_uid,
            identity.series_instance_uid,
            request.transfer_syntax_uid,
            identity.patient_id,
            identity.issuer_of_patient_id,
            received_at,
            self.storage_key,
            self.size_bytes,
            self.checksum,
        )

    def at(self, when: datetime, instance_id: int = UNNUMBERED) -> InstanceStorageInfo:
        """The instance that it becomes."""
        request, identity = self.request, self.identity
        return InstanceStorageInfo(
            instance_id=instance_id,
            ae_title=request.ae_title,
            calling_ae_title=request.calling_ae_title,
            peer_address=request.peer_address,
            association_id=request.association_id,
            sop_class_uid=identity.sop_class_uid,
            sop_instance_uid=identity.sop_instance_uid,
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            patient_id=identity.patient_id,
            issuer_of_patient_id=identity.issuer_of_patient_id,
            received_at=when,
            storage_key=self.storage_key,
            size_bytes=self.size_bytes,
            checksum=self.checksum,
        )


@define
class Incoming:
    """One C-STORE, from its request to the end of its data set. Used by one thread; raises nothing."""

    request: StoreRequest
    refusal: Answer | None = None  # it is refused, or not to be kept, whatever else comes
    _limit: int = 0  # bytes that a data set may have
    _writer: InstanceWriter | None = None
    _header_size: int = field(default=0, init=False)
    _size: int = field(default=0, init=False)  # of the data set so far
    _checksum: int = field(default=0, init=False)
    _reader: IdentityReader = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = IdentityReader(self.request.transfer_syntax_uid)

    def write_header(self, header: bytes) -> None:
        """What the stored file begins with."""
        self._header_size = len(header)
        self._put([header])

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Take pieces of the data set; they may be reused afterwards."""
        if not self._put(pieces):
            return
        for piece in pieces:
            self._size += len(piece)
            self._checksum = crc32(piece, self._checksum)
            if self._reader.needs_more:
                self._reader.feed(piece)
        if self._size > self._limit:
            why = f"its data set has more than max-data-set = {self._limit} bytes"
            self._refuse(Answer(status=Status.CANNOT_UNDERSTAND, why=why))

    def end(self) -> Arrival | Answer:
        """The data set is complete."""
        if self.refusal is None:
            try:
                return self._arrival(self._checked_identity())
            except Mismatch as refusal:
                self._refuse(Answer(status=Status.DATA_SET_DOES_NOT_MATCH, why=str(refusal)))
            except Unreadable as refusal:
                self._refuse(Answer(status=Status.CANNOT_UNDERSTAND, why=str(refusal)))
            except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
                self._refuse(_failure(failure))
        assert self.refusal is not None  # or it has arrived
        return self.refusal

    def discard(self) -> None:
        """Nothing more comes: let it never have been."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.discard()
            except Exception as failure:  # noqa: BLE001 - as above; what is left, an audit finds
                log.warning("incoming_left", error=type(failure).__name__)

    def _put(self, pieces: Sequence[bytes | memoryview]) -> bool:
        if self.refusal is not None or self._writer is None:
            return False
        try:
            self._writer.write_pieces(pieces)
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            self._refuse(_failure(failure))
            return False
        return True

    def _refuse(self, answer: Answer) -> None:
        self.refusal = answer
        self.discard()

    def _checked_identity(self) -> Identity:
        identity = self._reader.identity()
        if identity.sop_instance_uid != self.request.sop_instance_uid:
            raise Mismatch("the data set's SOP Instance UID is not the request's Affected SOP Instance UID")
        if identity.sop_class_uid != self.request.sop_class_uid:
            raise Mismatch("the data set's SOP Class UID is not the request's Affected SOP Class UID")
        return identity

    def _arrival(self, identity: Identity) -> Arrival:
        assert self._writer is not None  # it is not refused
        return Arrival(
            request=self.request,
            identity=identity,
            storage_key=self._writer.finish(),
            size_bytes=self._header_size + self._size,
            checksum=self._checksum,
        )


class Store:
    """`begin` and what comes of it is for one thread, `commit` for another one."""

    def __init__(self, config: Config, storage: StorageBackend[Any], ledger: Ledger, clock: Clock) -> None:
        self._config = config
        self._storage = storage
        self._ledger = ledger
        self._clock = clock

    def configure(self, config: Config) -> None:
        """Go on with another configuration. Associations that are open go on, whatever has become of their AE title."""
        known = {**self._config.ae_titles, **config.ae_titles}
        self._config = evolve(config, ae_titles=known)

    def begin(self, request: StoreRequest, full: str = "") -> Incoming:
        """Take a request. `full`: why there is no room for it; "" when there is."""
        if request.sop_class_uid in self._config.ae_titles[request.ae_title].ignored_sop_classes:
            why = "its SOP class is among ignored-sop-classes"
            return Incoming(request, Answer(status=Status.SUCCESS, why=why))
        if full:
            return Incoming(request, Answer(status=Status.OUT_OF_RESOURCES, why=full))
        header = file_header(
            request.sop_class_uid,
            request.sop_instance_uid,
            request.transfer_syntax_uid,
            request.calling_ae_title,
            request.ae_title,
        )
        try:
            writer = self._storage.writer()
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            return Incoming(request, _failure(failure))
        incoming = Incoming(request, limit=self._config.dicom.max_data_set, writer=writer)
        incoming.write_header(header)
        return incoming

    def keep(self, request: StoreRequest, data_set: bytes) -> Answer:
        """All at once, for who has it whole."""
        incoming = self.begin(request)
        incoming.write([data_set])
        arrival = incoming.end()
        return arrival if isinstance(arrival, Answer) else self.commit([arrival])[0]

    # --- commit -----------------------------------------------------------------------------------------------------

    def commit(self, waiting: Sequence[Arrival]) -> list[Answer]:
        """Make them durable and enter them; returns what each is answered, in their order."""
        try:
            self._storage.sync([arrival.storage_key for arrival in waiting])
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            self._delete(waiting)  # not every backend does so by itself
            return [_failure(failure)] * len(waiting)
        return self._enter(waiting)

    def _enter(self, waiting: Sequence[Arrival]) -> list[Answer]:
        """Write the rows; without them the stored objects have never been."""
        try:
            with self._ledger.write() as transaction:
                # Stamped while holding the right to write, so that the order of rows is the order of these times.
                answers = _Entry(self._config, self._storage, transaction, self._clock.now()).enter(waiting)
        except OperationalError as failure:  # the ledger is full, locked or broken, for all of them alike
            return self._not_entered(waiting, failure)
        except Exception as failure:  # noqa: BLE001 - a storage backend may raise anything; nobody fails for another one
            if len(waiting) == 1:
                return self._not_entered(waiting, failure)
            return [answer for arrival in waiting for answer in self._enter([arrival])]
        self._delete([one for one, answer in zip(waiting, answers, strict=True) if answer.instance is None])
        return answers

    def _not_entered(self, waiting: Sequence[Arrival], failure: Exception) -> list[Answer]:
        """After a failed transaction. A row that came about all the same must keep its stored object."""
        try:
            with self._ledger.read() as transaction:
                pending = [
                    instances.find_pending(transaction, one.request.ae_title, one.identity.sop_instance_uid)
                    for one in waiting
                ]
        except SQLAlchemyError as unknown:
            log.warning("stored_objects_left", count=len(waiting), error=type(unknown).__name__)
        else:
            kept = {instance.storage_key for instance in pending if instance is not None}
            self._delete([arrival for arrival in waiting if arrival.storage_key not in kept])
        return [_failure(failure)] * len(waiting)

    def _delete(self, waiting: Sequence[Arrival]) -> None:
        if waiting:
            try:
                self._storage.delete([arrival.storage_key for arrival in waiting])
            except Exception as failure:  # noqa: BLE001 - as above; what is left, an audit finds
                log.warning("stored_objects_left", count=len(waiting), error=type(failure).__name__)


class _Entry:
    """The rows of one transaction."""

    def __init__(self, config: Config, storage: StorageBackend[Any], transaction: Transaction, now: datetime) -> None:
        self._config = config
        self._storage = storage
        self._transaction = transaction
        self._now = now

    def enter(self, all_of_them: Sequence[Arrival]) -> list[Answer]:
        """Enter them in their order."""
        moment = arrivals.moment(self._now)
        numbers = arrivals.enter(self._transaction, [arrival.row(moment) for arrival in all_of_them], moment)
        return [
            self._again(arrival)
            if number is None
            else Answer(status=Status.SUCCESS, instance=arrival.at(self._now, number))
            for arrival, number in zip(all_of_them, numbers, strict=True)
        ]

    def _again(self, arrival: Arrival) -> Answer:
        """An instance with the same SOP Instance UID is pending."""
        instance = arrival.at(self._now)
        pending = instances.find_pending(self._transaction, instance.ae_title, instance.sop_instance_uid)
        assert pending is not None  # it was when this one was not entered, in this transaction
        if self._table(arrival).overwrite_same_instance:
            return Answer(status=Status.SUCCESS, instance=instances.replace(self._transaction, pending, instance))
        if self._is_same(pending, instance):
            return Answer(
                status=Status.SUCCESS, why="the same data set is pending already", repeats=pending.instance_id
            )
        why = "another data set with this SOP Instance UID is pending; overwrite-same-instance = false keeps that one"
        return Answer(status=Status.DUPLICATE_SOP_INSTANCE, why=why, repeats=pending.instance_id)

    def _table(self, arrival: Arrival) -> AeTitleConfig:
        return self._config.ae_titles[arrival.request.ae_title]

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
