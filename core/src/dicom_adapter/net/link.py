"""One association as requestor, with pynetdicom. Memory and time are limited, and the connection is always closed."""

from __future__ import annotations

import logging
import queue
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from attrs import define
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA, MaximumLengthNotification
from pynetdicom.status import GENERAL_STATUS, STORAGE_SERVICE_CLASS_STATUS

from dicom_adapter.api.errors import DicomAdapterError, Refused, Retriable
from dicom_adapter.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_adapter.net.address import Address, parse_ae_title

MAX_PDU = 1 << 18  # bytes; without it, and if the peer has no limit either, a whole file would be one PDU in memory
QUEUED_PDUS = 16  # maximum number of PDUs that are read from a file before the socket accepts them
NOT_ACCEPTED = "presentation context not accepted"


class AssociationRejected(Refused):
    """The peer rejected the association permanently."""


class AssociationRejectedTransient(Retriable):
    """The peer rejected the association as *transient*."""


class NoContextAccepted(Refused):
    """The peer accepted the association, but none of its presentation contexts."""


class PeerUnreachable(Retriable):
    """No connection to the peer is possible, or the peer does not answer."""


class AssociationLost(Retriable):
    """The peer aborted the association, closed the connection, or stopped answering."""


class StatusNotSuccess(Refused):
    """The peer answered with a failure status."""


def silence_pynetdicom() -> None:
    """Disable the log of pynetdicom in this process: results and errors contain the same information."""
    _config.LOG_HANDLER_LEVEL = "none"
    logger = logging.getLogger("pynetdicom")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)


@contextmanager
def associated(
    address: Address,
    calling_ae_title: str,
    pairs: list[tuple[UID, UID]],
    timeout: float,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Association]:
    """Open an association for the duration of a `with` block. Raises Refused or Retriable.

    `pairs`: SOP class and transfer syntax of each presentation context to propose; `timeout`: seconds.
    """
    link = _Link(timeout=timeout, tls=tls)
    try:
        association = _associate(link, address, parse_ae_title(calling_ae_title), pairs)
        yield association
        association.release()  # does nothing when the association was lost
    except BaseException as failure:
        if link.association and not isinstance(failure, DicomAdapterError):  # Ctrl-C, or a bug
            link.association.abort()
        raise
    finally:
        if link.socket:
            link.socket.close()  # pynetdicom does not close it if the peer has closed the connection first


def send_c_store(
    association: Association, path: Path, offset: int, pair: tuple[UID, UID], sop_instance_uid: UID, message_id: int
) -> Dataset:
    """Send the data set of a file as it is; return the response, or an empty data set if there was none.

    `offset`: position of the data set in the file; `pair`: its SOP class and transfer syntax.

    `Association.send_c_store` of pynetdicom takes the UIDs of the request from the file meta information. This function
    sends the UIDs that are passed to it. Raises RuntimeError if the association has ended, and OSError if the file
    cannot be read.
    """
    if not association.is_established:
        raise RuntimeError("the association has ended")
    request = C_STORE()
    request.MessageID, request.Priority = message_id, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = pair[0], sop_instance_uid
    request._dataset_path = (path, offset)  # pynetdicom reads the data set while it sends it
    context = association._get_valid_context(*pair, "scu", allow_conversion=False)
    association._reactor_checkpoint.clear()  # as in the requests of pynetdicom
    while not association._is_paused:
        time.sleep(0.0001)
    try:
        association.dimse.send_msg(request, cast(int, context.context_id))
        _context_id, response = association.dimse.get_msg(block=True)
    finally:
        association._reactor_checkpoint.set()
    if response is None:
        association._handle_no_response()
        return Dataset()
    return association._check_received_status(response)


@define(kw_only=True)
class _Link:
    """State of the connection that pynetdicom reports only in events."""

    timeout: float  # seconds
    tls: ssl.SSLContext | None
    connected: bool = False
    rejection: A_ASSOCIATE | None = None
    association: Association | None = None
    socket: socket.socket | None = None

    @property
    def handlers(self) -> list[evt.EventHandlerType]:
        return [
            (evt.EVT_ACSE_SENT, self._on_request),
            (evt.EVT_CONN_OPEN, self._on_connected),
            (evt.EVT_PDU_SENT, self._on_sent),
            (evt.EVT_PDU_RECV, self._on_received),
        ]

    def _on_request(self, event: evt.Event) -> None:
        if self.association is None and event.assoc.dul.socket:
            self.association = event.assoc
            self.socket = event.assoc.dul.socket.socket

    def _on_connected(self, event: evt.Event) -> None:
        self.connected = True
        if event.assoc.dul.socket:  # with TLS, a different object than in `_on_request`
            self.socket = event.assoc.dul.socket.socket
        if self.socket:
            self.socket.settimeout(self.timeout)  # for a peer that stops reading
            # A C-STORE is two small PDUs; the second must not wait for the acknowledgement of the first.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_sent(self, _event: evt.Event) -> None:
        # A peer that writes its response in two pieces waits 40 ms for the TCP acknowledgement of the first piece,
        # unless it is sent immediately. Linux resets this option after each exchange; other systems do not have it.
        if self.socket and hasattr(socket, "TCP_QUICKACK"):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _on_received(self, event: evt.Event) -> None:
        # pynetdicom loses a rejection that arrives before it has checked whether it is connected.
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            self.rejection = event.pdu.to_primitive()


def _associate(link: _Link, address: Address, calling_ae_title: str, pairs: list[tuple[UID, UID]]) -> Association:
    started = time.monotonic()
    try:
        association = _application_entity(calling_ae_title, link.timeout).associate(
            address.host,
            address.port,
            [build_context(*pair) for pair in pairs],
            ae_title=address.ae_title,
            evt_handlers=link.handlers,
            tls_args=(link.tls, address.host) if link.tls else None,
        )
    except OSError as failure:
        raise PeerUnreachable(f"{address} cannot be reached: {failure.strerror or failure}") from None
    if not association.is_established:
        raise _association_failure(association, address, link, time.monotonic() - started)
    _limit_memory(association)
    _keep_responses(association)
    return association


def _application_entity(ae_title: str, timeout: float) -> AE:
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = timeout
    # With a limit, pynetdicom would abort an association on which only this side sends for a long time.
    entity.network_timeout = None
    return entity


class _BoundedQueue(queue.Queue[Any]):
    """pynetdicom's queue of outgoing primitives, with a limit for fragments of data sets.

    Without the limit, a whole file would be read into memory, and the time limit of the response would start before the
    file was sent.
    """

    def __init__(self, reader: DULServiceProvider) -> None:
        super().__init__()
        self._reader = reader

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self.not_full:
            while isinstance(item, P_DATA) and self._qsize() >= QUEUED_PDUS and self._reader.is_alive():
                self.not_full.wait(0.1)  # seconds; a reader that dies does not notify
        super().put(item, block, timeout)


def _limit_memory(association: Association) -> None:
    association.dul.to_provider_queue = _BoundedQueue(association.dul)
    for item in association.acceptor.user_information:
        if isinstance(item, MaximumLengthNotification):
            item.maximum_length_received = min(item.maximum_length_received or MAX_PDU, MAX_PDU)


def _keep_responses(association: Association) -> None:
    """Prevent that pynetdicom's reactor receives a response instead of the thread that waits for it.

    pynetdicom's reactor looks for requests of the peer, which a requestor of these services does not serve. A pause of
    the reactor is not enough: if it has just passed the check for a pause, it looks for a message once more. It would
    then take a response that has already arrived.
    """
    receive = association.dimse.get_msg

    def receive_if_waiting(block: bool = False) -> Any:
        return receive(block=True) if block else (None, None)

    association.dimse.get_msg = receive_if_waiting  # type: ignore[method-assign] # pynetdicom has no hook for it


def _association_failure(association: Association, address: Address, link: _Link, seconds: float) -> DicomAdapterError:
    answer = link.rejection
    if answer is not None:
        family = AssociationRejected if answer.result == 1 else AssociationRejectedTransient
        reason = f"{answer.reason_str} ({answer.result_str}, by the {answer.source_str})".lower()
        return family(f"{address} rejected the association: {reason}")
    if association.rejected_contexts:
        return NoContextAccepted(f"{address}: {NOT_ACCEPTED}")
    if not link.connected:
        return PeerUnreachable(f"{address} cannot be reached: {_connection_failure(address, seconds, link)}")
    if seconds >= link.timeout:
        return PeerUnreachable(f"{address} did not answer the association request within {link.timeout:g} seconds")
    return AssociationLost(f"{address} aborted the association request, or closed the connection")


def _connection_failure(address: Address, seconds: float, link: _Link) -> str:
    """Return why the connection failed.

    pynetdicom only logs the reason, so the attempt is repeated, unless it exceeded the time limit.
    """
    if seconds >= link.timeout:
        return f"no connection within {link.timeout:g} seconds"
    try:
        with socket.create_connection((address.host, address.port), link.timeout) as plain:
            if link.tls:
                link.tls.wrap_socket(plain, server_hostname=address.host).close()
    except ssl.SSLCertVerificationError as failure:
        return f"its certificate is not trusted: {failure.verify_message}"
    except ssl.SSLError as failure:
        return f"TLS handshake failed ({failure.reason})"
    except OSError as failure:
        return (failure.strerror or str(failure)).lower()
    return "the connection failed"


def loss_reason(timeout: float) -> str:
    """Return the message for a lost association. `timeout`: seconds."""
    return f"association lost: aborted or closed by the peer, or no answer within {timeout:g} seconds"


def describe_status(status: int) -> str:
    """Return a C-STORE status with its meaning, for messages."""
    known = {**GENERAL_STATUS, **STORAGE_SERVICE_CLASS_STATUS}.get(status)
    return f"0x{status:04X} {known[1] if known else 'unknown status'}".rstrip()
