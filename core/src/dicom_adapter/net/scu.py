"""The sending side: verifies a peer (C-ECHO) and sends files (C-STORE) exactly as they are encoded.

The files' headers are read first; for each (SOP class, transfer syntax) that occurs one presentation context with that
one transfer syntax is proposed. So the peer either takes a file as it is or does not take it: nothing is transcoded.
"""

from __future__ import annotations

import ipaddress
import logging
import queue
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA, MaximumLengthNotification
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined] # the module makes its names at run time
from pynetdicom.status import GENERAL_STATUS, STORAGE_SERVICE_CLASS_STATUS, code_to_category

from dicom_adapter.errors import DicomAdapterError, Refused, Retriable
from dicom_adapter.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, UID_GRAMMAR

DEFAULT_TIMEOUT = 30.0  # seconds
MAX_CONTEXTS = 128  # in one association: their IDs are the odd numbers of one byte (PS3.8 9.3.2.2)
MAX_PDU = 1 << 18  # bytes; a peer that sets no limit would otherwise get each file in one PDU, read whole into memory
QUEUED_PDUS = 16  # PDUs read ahead of the socket
AE_TITLE = re.compile(r"(?=.*[^ ])[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 table 6.2-1, VR AE
NOT_ACCEPTED = "presentation context not accepted"


class InvalidAddress(Refused):
    """A text is no AE title or no address of a peer."""


class AssociationRejected(Refused):
    """The peer rejected the association, and will again."""


class AssociationRejectedForNow(Retriable):
    """The peer rejected the association as *transient*."""


class NothingAccepted(Refused):
    """The peer accepted the association, but none of its presentation contexts."""


class PeerUnreachable(Retriable):
    """There is no connection to the peer, or nobody answers on it."""


class AssociationLost(Retriable):
    """The peer aborted the association, closed the connection, or stopped answering."""


class StatusNotSuccess(Refused):
    """The peer answered with a failure status."""


@frozen(kw_only=True)
class Address:
    """Where a peer listens and what it is called."""

    ae_title: str
    host: str  # a name, or an IPv4 or IPv6 address without brackets
    port: int

    def __str__(self) -> str:
        return f"{self.ae_title}@{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read 'AET@HOST:PORT', an IPv6 address in brackets. Raises InvalidAddress."""
    ae_title, at, rest = text.rpartition("@")
    host, colon, port = rest.rpartition(":")
    if not at or not colon:
        raise InvalidAddress(f"'{text}' is not of the form AET@HOST:PORT, for example LUNG@localhost:11112")
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise InvalidAddress(f"'{text}': the port '{port}' must be a number from 1 to 65535")
    return Address(ae_title=parse_ae_title(ae_title), host=_parse_host(host, text), port=int(port))


def parse_ae_title(text: str) -> str:
    """The AE title without the spaces around it, which have no meaning. Raises InvalidAddress."""
    if not AE_TITLE.fullmatch(text):
        raise InvalidAddress(f"AE title '{text}' must be 1 to 16 printable ASCII characters without a backslash")
    return text.strip(" ")


def _parse_host(host: str, text: str) -> str:
    if not host or re.search(r"\s", host):
        raise InvalidAddress(f"'{text}' has no host between '@' and ':'")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise InvalidAddress(f"'{text}': '{host[1:-1]}' is not an IPv6 address") from None
    if set(host) & set("[]:"):
        raise InvalidAddress(f"'{text}': an IPv6 address stands in brackets, for example LUNG@[::1]:11112")
    return host


def silence_pynetdicom() -> None:
    """Keep pynetdicom's log records from every handler of this process: what matters is in results and errors."""
    _config.LOG_HANDLER_LEVEL = "none"
    logger = logging.getLogger("pynetdicom")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)


def echo(address: Address, calling_ae_title: str, timeout: float = DEFAULT_TIMEOUT) -> float:
    """Verify that the peer answers a C-ECHO; returns the seconds from request to response."""
    with _associated(address, calling_ae_title, [(Verification, ImplicitVRLittleEndian)], timeout) as association:
        started = time.perf_counter()
        answer = association.send_c_echo()
        seconds = time.perf_counter() - started
    if "Status" not in answer:
        raise AssociationLost(f"{address}: {_lost(timeout)}")
    if answer.Status != 0:
        raise StatusNotSuccess(f"{address} answered the C-ECHO with {_status_in_words(answer.Status)}")
    return seconds


@frozen(kw_only=True)
class Skipped:
    """A file or folder that `find_dicom` did not take."""

    path: Path
    reason: str
    wanted: bool  # it was named by the user, or nobody can tell what it is: that it is not sent is a failure


def find_dicom(paths: Iterable[Path], on_skipped: Callable[[Skipped], None]) -> Iterator[Path]:
    """The DICOM files (PS3.10) among `paths` and in the folders among them, sorted; hidden entries are passed over."""
    for path in paths:
        if path.is_dir():
            yield from _search(path, on_skipped)
        elif skipped := _judge(path, named=True):
            on_skipped(skipped)
        else:
            yield path


def _search(folder: Path, on_skipped: Callable[[Skipped], None]) -> Iterator[Path]:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as failure:
        on_skipped(Skipped(path=folder, reason=f"cannot be read: {failure.strerror}", wanted=True))
        return
    for entry in entries:
        if entry.is_dir():
            if not entry.is_symlink():  # a link may lead back up
                yield from _search(entry, on_skipped)
        elif skipped := _judge(entry, named=False):
            on_skipped(skipped)
        else:
            yield entry


def _judge(path: Path, *, named: bool) -> Skipped | None:
    if path.name.upper() == "DICOMDIR":
        return Skipped(path=path, reason="an index of files, not an instance", wanted=named)
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        return Skipped(path=path, reason="not a regular file", wanted=named)
    try:
        with path.open("rb") as file:
            beginning = file.read(132)
    except OSError as failure:
        return Skipped(path=path, reason=f"cannot be read: {failure.strerror}", wanted=True)
    return None if beginning[128:] == b"DICM" else Skipped(path=path, reason="not a DICOM file", wanted=named)


class Grouping(Enum):
    """Which files share an association, when not all of them do."""

    STUDY = "study"
    INSTANCE = "instance"


@frozen(kw_only=True)
class SendResult:
    """What became of one file."""

    path: Path
    ok: bool  # stored by the peer, perhaps with a warning
    status: int | None = None  # of the C-STORE response, if there was one
    message: str = ""  # empty for success; never patient data


@frozen(kw_only=True)
class SendSummary:
    """What became of all files: `total` is `sent` and the failures."""

    total: int
    sent: int  # those with a warning included
    warnings: int
    failures: tuple[SendResult, ...]
    associations: int
    gave_up: str | None  # why some files were not even tried


def send(
    files: Iterable[Path],
    address: Address,
    *,
    calling_ae_title: str,
    per_association: Grouping | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    on_result: Callable[[SendResult], None] = lambda _result: None,
) -> SendSummary:
    """Send Part 10 files as they are, over as few associations as `per_association` allows.

    `on_result` is called once for each file. A lost association is made anew once. What the peer does not take is a
    failure in the summary, never an exception.
    """
    _config.STORE_SEND_CHUNKED_DATASET = True  # read at every call: else the file would be decoded and encoded again
    sender = _Sender(address=address, calling_ae_title=calling_ae_title, timeout=timeout, on_result=on_result)
    entries = [entry for file in files if (entry := sender.read(file, per_association))]
    for batch in _batches(entries):
        sender.send_batch(batch)
    return sender.summary()


@frozen(kw_only=True)
class _Entry:
    path: Path
    pair: tuple[UID, UID]  # SOP class, transfer syntax
    group: str  # entries of one group go over one association


def _read_entry(path: Path, per_association: Grouping | None) -> _Entry:
    """Raises Refused, OSError, or whatever pydicom makes of a broken file."""
    group = str(path) if per_association is Grouping.INSTANCE else ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values that they are about
        meta, _ = split_dataset(path)
        if per_association is Grouping.STUDY:
            group = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).get("StudyInstanceUID")
    uids = [meta.get(name) for name in ("MediaStorageSOPClassUID", "TransferSyntaxUID", "MediaStorageSOPInstanceUID")]
    if not all(uid and UID_GRAMMAR.fullmatch(uid) for uid in uids):
        raise Refused("the file meta information lacks a valid SOP class, SOP instance or transfer syntax UID")
    return _Entry(path=path, pair=(uids[0], uids[1]), group=group or "")


def _batches(entries: Iterable[_Entry]) -> Iterator[list[_Entry]]:
    groups: dict[str, list[_Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    for group in groups.values():
        pairs = {pair: number for number, pair in enumerate(dict.fromkeys(entry.pair for entry in group))}
        for first in range(0, len(pairs), MAX_CONTEXTS):
            yield [entry for entry in group if first <= pairs[entry.pair] < first + MAX_CONTEXTS]


@define(kw_only=True)
class _Sender:
    address: Address
    calling_ae_title: str
    timeout: float
    on_result: Callable[[SendResult], None]
    sent: int = 0
    warnings: int = 0
    associations: int = 0
    failures: list[SendResult] = field(factory=list)
    gave_up: str | None = None

    def read(self, path: Path, per_association: Grouping | None) -> _Entry | None:
        try:
            return _read_entry(path, per_association)
        except (Refused, OSError) as failure:
            self.fail(path, str(getattr(failure, "strerror", None) or failure))
        except Exception as failure:  # noqa: BLE001 - pydicom raises many kinds for bytes that are no DICOM file
            self.fail(path, f"the file cannot be parsed ({type(failure).__name__})")
        return None

    def send_batch(self, batch: list[_Entry]) -> None:
        reason = self.gave_up or ""
        for _first_or_second in range(0 if self.gave_up else 2):
            try:
                batch, reason = self.send_over_one_association(batch)
            except (Refused, Retriable) as failure:
                reason = str(failure)
                if isinstance(failure, (PeerUnreachable, AssociationRejected)):
                    self.gave_up = reason  # the other batches would only wait for the same
                break
        for entry in batch:
            self.fail(entry.path, reason)

    def send_over_one_association(self, batch: list[_Entry]) -> tuple[list[_Entry], str]:
        """Returns the entries that were not sent because the association was lost, and how."""
        if not batch:
            return [], ""
        pairs = list(dict.fromkeys(entry.pair for entry in batch))
        with _associated(self.address, self.calling_ae_title, pairs, self.timeout) as association:
            self.associations += 1
            accepted = {
                (context.abstract_syntax, context.transfer_syntax[0]) for context in association.accepted_contexts
            }
            for index, entry in enumerate(batch):
                if entry.pair not in accepted:
                    self.fail(entry.path, f"{NOT_ACCEPTED}: {entry.pair[0].name}, {entry.pair[1].name}")
                elif not self.store(association, entry, message_id=index % 65535 + 1):
                    # Last in the next round: if this entry is what the peer cannot stand, the others still get through.
                    return [*batch[index + 1 :], entry], _lost(self.timeout)
        return [], ""

    def store(self, association: Association, entry: _Entry, message_id: int) -> bool:
        """Returns whether the association still stands; the entry's outcome is only then known, and reported."""
        try:
            answer = association.send_c_store(entry.path, msg_id=message_id, priority=0)
        except RuntimeError:  # there was no association any more
            return False
        except (AttributeError, ValueError, InvalidDicomError) as failure:  # before anything was sent
            self.fail(entry.path, f"pynetdicom refused the file ({type(failure).__name__})")
            return True
        except OSError as failure:  # perhaps in the middle of the data set
            association.abort()
            self.fail(entry.path, f"cannot be read: {failure.strerror}")
            return True
        if "Status" in answer:
            self.answered(entry.path, answer.Status)
        return "Status" in answer

    def answered(self, path: Path, status: int) -> None:
        category = code_to_category(status)
        if category not in ("Success", "Warning"):
            self.fail(path, _status_in_words(status), status)
            return
        self.sent += 1
        self.warnings += category == "Warning"
        message = _status_in_words(status) if category == "Warning" else ""
        self.on_result(SendResult(path=path, ok=True, status=status, message=message))

    def fail(self, path: Path, reason: str, status: int | None = None) -> None:
        self.failures.append(SendResult(path=path, ok=False, status=status, message=reason))
        self.on_result(self.failures[-1])

    def summary(self) -> SendSummary:
        return SendSummary(
            total=self.sent + len(self.failures),
            sent=self.sent,
            warnings=self.warnings,
            failures=tuple(self.failures),
            associations=self.associations,
            gave_up=self.gave_up,
        )


@contextmanager
def _associated(
    address: Address, calling_ae_title: str, pairs: list[tuple[UID, UID]], timeout: float
) -> Iterator[Association]:
    association = _associate(address, parse_ae_title(calling_ae_title), pairs, timeout)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    association.release()  # does nothing when the association was lost


def _associate(address: Address, calling_ae_title: str, pairs: list[tuple[UID, UID]], timeout: float) -> Association:
    connected: list[Association] = []
    started = time.monotonic()
    try:
        association = _application_entity(calling_ae_title, timeout).associate(
            address.host,
            address.port,
            [build_context(*pair) for pair in pairs],
            ae_title=address.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, _on_connected, [connected, timeout])],
        )
    except OSError as failure:
        raise PeerUnreachable(f"{address} cannot be reached: {failure.strerror or failure}") from None
    if association.is_established:
        _bound_memory(association)
        return association
    raise _why_not(association, address, bool(connected), time.monotonic() - started, timeout)


def _application_entity(ae_title: str, timeout: float) -> AE:
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = timeout
    entity.network_timeout = None  # it would end an association on which only this side has been talking for long
    return entity


def _on_connected(event: evt.Event, connected: list[Association], timeout: float) -> None:
    connected.append(event.assoc)
    link = event.assoc.dul.socket
    if link and link.socket:
        link.socket.settimeout(timeout)  # a peer that stops reading
        # A C-STORE is two small PDUs; the second one must not wait for the acknowledgement of the first.
        link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _BoundedQueue(queue.Queue[Any]):
    """pynetdicom's queue of what is to be sent, with an end to the fragments of data sets in it.

    Else a file would be read whole into memory, and the wait for the response would begin before it was sent.
    """

    def __init__(self, reader: DULServiceProvider) -> None:
        super().__init__()
        self._reader = reader

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self.not_full:
            while isinstance(item, P_DATA) and self._qsize() >= QUEUED_PDUS and self._reader.is_alive():
                self.not_full.wait(0.1)  # seconds; a reader that dies does not wake us
        super().put(item, block, timeout)


def _bound_memory(association: Association) -> None:
    association.dul.to_provider_queue = _BoundedQueue(association.dul)
    for item in association.acceptor.user_information:
        if isinstance(item, MaximumLengthNotification):
            item.maximum_length_received = min(item.maximum_length_received or MAX_PDU, MAX_PDU)


def _why_not(
    association: Association, address: Address, connected: bool, seconds: float, timeout: float
) -> DicomAdapterError:
    answer = association.acceptor.primitive
    if association.is_rejected and isinstance(answer, A_ASSOCIATE):
        family = AssociationRejected if answer.result == 1 else AssociationRejectedForNow
        reason = f"{answer.reason_str} ({answer.result_str}, by the {answer.source_str})".lower()
        return family(f"{address} rejected the association: {reason}")
    if association.rejected_contexts:
        return NothingAccepted(f"{address}: {NOT_ACCEPTED}")
    if not connected:
        return PeerUnreachable(f"{address} cannot be reached: {_why_unreachable(address, seconds, timeout)}")
    if seconds >= timeout:
        return PeerUnreachable(f"{address} did not answer the association request within {timeout:g} seconds")
    return AssociationLost(f"{address} aborted the association request, or closed the connection")


def _why_unreachable(address: Address, seconds: float, timeout: float) -> str:
    """pynetdicom keeps the reason to its log, so the attempt is repeated, unless it was a long one."""
    if seconds >= timeout:
        return f"no connection within {timeout:g} seconds"
    try:
        socket.create_connection((address.host, address.port), timeout).close()
    except OSError as failure:
        return (failure.strerror or str(failure)).lower()
    return "the connection failed"


def _lost(timeout: float) -> str:
    return f"association lost: aborted or closed by the peer, or no answer within {timeout:g} seconds"


def _status_in_words(status: int) -> str:
    known = {**GENERAL_STATUS, **STORAGE_SERVICE_CLASS_STATUS}.get(status)
    return f"0x{status:04X} {known[1] if known else 'unknown status'}".rstrip()
