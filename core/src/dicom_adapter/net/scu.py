"""The SCU: verify a peer (C-ECHO), and send files (C-STORE) exactly as they are encoded.

The files' headers are read first. One presentation context is proposed for each pair of SOP class and transfer syntax,
with that transfer syntax only. Therefore the peer accepts a file as it is or not at all: nothing is transcoded.
"""

from __future__ import annotations

import ssl
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from attrs import define, field, frozen
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined] # the module makes its names at run time
from pynetdicom.status import code_to_category

from dicom_adapter.api.errors import Refused, Retriable
from dicom_adapter.dicom.elements import ElementScanner
from dicom_adapter.dicom.identity import SOP_CLASS_UID, SOP_INSTANCE_UID, UID_GRAMMAR
from dicom_adapter.net.address import Address
from dicom_adapter.net.link import (
    NOT_ACCEPTED,
    AssociationLost,
    AssociationRejected,
    PeerUnreachable,
    StatusNotSuccess,
    associated,
    describe_status,
    loss_reason,
    send_c_store,
)
from dicom_adapter.net.results import DEFAULT_TIMEOUT, Grouping, SendResult, SendSummary

PIECE_BYTES = 1 << 16  # number of bytes read at once, when the UIDs of a file are read
INTERRUPTED = "interrupted (Ctrl-C)"  # the reason of files that were not sent because of a KeyboardInterrupt
MAX_CONTEXTS = 128  # in one association: their IDs are the odd numbers of one byte (PS3.8 9.3.2.2)


def echo(
    address: Address, calling_ae_title: str, timeout: float = DEFAULT_TIMEOUT, tls: ssl.SSLContext | None = None
) -> float:
    """Verify that the peer answers a C-ECHO. Returns the seconds from request to response."""
    with associated(address, calling_ae_title, [(Verification, ImplicitVRLittleEndian)], timeout, tls) as association:
        started = time.perf_counter()
        answer = association.send_c_echo()
        seconds = time.perf_counter() - started
    if "Status" not in answer:
        raise AssociationLost(f"{address}: {loss_reason(timeout)}")
    if answer.Status != 0:
        raise StatusNotSuccess(f"{address} answered the C-ECHO with {describe_status(answer.Status)}")
    return seconds


def send(
    files: Iterable[Path],
    address: Address,
    *,
    calling_ae_title: str,
    per_association: Grouping | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    tls: ssl.SSLContext | None = None,
    on_result: Callable[[SendResult], None] = lambda _result: None,
) -> SendSummary:
    """Send Part 10 files as they are encoded, over as few associations as `per_association` allows.

    `on_result` is called once for each file. If an association is lost, its remaining files are sent over one more
    association. A file that the peer does not store is a failure in the summary, never an exception. After a
    KeyboardInterrupt, all files without a result are failures, too.
    """
    sender = _Sender(address=address, calling_ae_title=calling_ae_title, timeout=timeout, tls=tls, on_result=on_result)
    paths = list(files)
    try:
        entries = [entry for path in paths if (entry := sender.read(path, per_association))]
        for batch in _batches(entries):
            sender.send_batch(batch)
    except KeyboardInterrupt:
        sender.stop(paths, INTERRUPTED)
    return sender.summary()


@frozen(kw_only=True)
class _FileToSend:
    """A readable file, with the values that are needed to open its association."""

    path: Path
    offset: int  # position of the data set in the file
    pair: tuple[UID, UID]  # SOP class, transfer syntax
    sop_instance_uid: UID
    group: str  # files with the same value share an association


def _read_entry(path: Path, per_association: Grouping | None) -> _FileToSend:
    """Read the header. Raises Refused, OSError, or any exception of pydicom for a broken file."""
    group = str(path) if per_association is Grouping.INSTANCE else ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote patient data
        meta, offset = split_dataset(path)
        if per_association is Grouping.STUDY:
            group = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).get("StudyInstanceUID")
    uids = [meta.get(name) for name in ("MediaStorageSOPClassUID", "TransferSyntaxUID", "MediaStorageSOPInstanceUID")]
    if not all(uid and UID_GRAMMAR.fullmatch(uid) for uid in uids):
        raise Refused("the file meta information lacks a valid SOP class, SOP instance or transfer syntax UID")
    data_set_uids = _uids_of_data_set(path, offset, uids[1])
    return _FileToSend(
        path=path,
        offset=offset,
        pair=(data_set_uids.get(SOP_CLASS_UID, uids[0]), uids[1]),
        sop_instance_uid=data_set_uids.get(SOP_INSTANCE_UID, uids[2]),
        group=group or "",
    )


def _uids_of_data_set(path: Path, offset: int, transfer_syntax: UID) -> dict[int, UID]:
    """Return the SOP Class UID and the SOP Instance UID of the data set; omit an invalid one.

    Peers compare the request with the data set (PS3.4 section B.2.3); the file meta information may differ from it.
    """
    wanted = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID})
    scanner = ElementScanner(transfer_syntax, wanted, wanted)
    with path.open("rb") as file:
        file.seek(offset)
        while scanner.needs_more and (piece := file.read(PIECE_BYTES)):
            scanner.feed(piece)
    scanner.end()
    texts = {tag: value.rstrip(b"\0 ").decode("ascii", "replace") for tag, value in scanner.values.items()}
    return {tag: UID(text) for tag, text in texts.items() if UID_GRAMMAR.fullmatch(text)}


def _batches(entries: Iterable[_FileToSend]) -> Iterator[list[_FileToSend]]:
    groups: dict[str, list[_FileToSend]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    for group in groups.values():
        pairs = {pair: number for number, pair in enumerate(dict.fromkeys(entry.pair for entry in group))}
        for first in range(0, len(pairs), MAX_CONTEXTS):
            yield [entry for entry in group if first <= pairs[entry.pair] < first + MAX_CONTEXTS]


@define(kw_only=True)
class _Sender:
    """Sends files and collects the results."""

    address: Address
    calling_ae_title: str
    timeout: float
    tls: ssl.SSLContext | None
    on_result: Callable[[SendResult], None]
    sent: int = 0
    warnings: int = 0
    associations: int = 0
    failures: list[SendResult] = field(factory=list)
    finished: set[Path] = field(factory=set)  # files whose result is known
    gave_up: str | None = None

    def read(self, path: Path, per_association: Grouping | None) -> _FileToSend | None:
        try:
            return _read_entry(path, per_association)
        except (Refused, OSError) as failure:
            self.fail(path, str(getattr(failure, "strerror", None) or failure))
        except Exception as failure:  # noqa: BLE001 - pydicom raises many types for bytes that are not a DICOM file
            self.fail(path, f"the file cannot be parsed ({type(failure).__name__})")
        return None

    def send_batch(self, batch: list[_FileToSend]) -> None:
        reason = self.gave_up or ""
        for _attempt in range(0 if self.gave_up else 2):
            try:
                batch, reason = self.send_over_one_association(batch)
            except (Refused, Retriable) as failure:
                reason = str(failure)
                if isinstance(failure, (PeerUnreachable, AssociationRejected)):
                    self.gave_up = reason  # the other batches would fail for the same reason
                break
        for entry in batch:
            self.fail(entry.path, reason)

    def send_over_one_association(self, batch: list[_FileToSend]) -> tuple[list[_FileToSend], str]:
        """Send the files. Returns those that were not sent because the association was lost, and the reason."""
        if not batch:
            return [], ""
        pairs = list(dict.fromkeys(entry.pair for entry in batch))
        with associated(self.address, self.calling_ae_title, pairs, self.timeout, self.tls) as association:
            self.associations += 1
            accepted = {
                (context.abstract_syntax, context.transfer_syntax[0]) for context in association.accepted_contexts
            }
            for index, entry in enumerate(batch):
                if entry.pair not in accepted:
                    self.fail(entry.path, f"{NOT_ACCEPTED}: {entry.pair[0].name}, {entry.pair[1].name}")
                elif not self.store(association, entry, message_id=index % 65535 + 1):
                    # The next attempt sends this file last: if it makes the peer abort, the other files are sent.
                    return [*batch[index + 1 :], entry], loss_reason(self.timeout)
        return [], ""

    def store(self, association: Association, entry: _FileToSend, message_id: int) -> bool:
        """Send one file. Returns False if the association is lost; then no result is reported."""
        try:
            answer = send_c_store(association, entry.path, entry.offset, entry.pair, entry.sop_instance_uid, message_id)
        except RuntimeError:  # the association has ended
            return False
        except (AttributeError, ValueError, InvalidDicomError) as failure:  # raised before anything was sent
            self.fail(entry.path, f"pynetdicom refused the file ({type(failure).__name__})")
            return True
        except OSError as failure:  # possibly raised in the middle of the data set
            association.abort()
            self.fail(entry.path, f"cannot be read: {failure.strerror}")
            return True
        if "Status" in answer:
            self.report_status(entry.path, answer.Status, str(answer.get("ErrorComment", "")))
        return "Status" in answer

    def report_status(self, path: Path, status: int, comment: str) -> None:
        category = code_to_category(status)
        if category not in ("Success", "Warning"):
            self.fail(path, describe_status(status) + (comment and f": {comment}"), status)
            return
        self.sent += 1
        self.finished.add(path)
        self.warnings += category == "Warning"
        message = describe_status(status) if category == "Warning" else ""
        self.on_result(SendResult(path=path, ok=True, status=status, message=message))

    def fail(self, path: Path, reason: str, status: int | None = None) -> None:
        self.failures.append(SendResult(path=path, ok=False, status=status, message=reason))
        self.finished.add(path)
        self.on_result(self.failures[-1])

    def stop(self, paths: Iterable[Path], reason: str) -> None:
        """Report the files without a result as failures."""
        self.gave_up = reason
        for path in paths:
            if path not in self.finished:
                self.fail(path, reason)

    def summary(self) -> SendSummary:
        return SendSummary(
            total=self.sent + len(self.failures),
            sent=self.sent,
            warnings=self.warnings,
            failures=tuple(self.failures),
            associations=self.associations,
            gave_up=self.gave_up,
        )
