"""An association as its requestor, on pynetdicom: opened, bounded in memory and time, and closed for certain."""

from __future__ import annotations

import logging
import queue
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA, MaximumLengthNotification
from pynetdicom.status import GENERAL_STATUS, STORAGE_SERVICE_CLASS_STATUS

from dicom_adapter.api.errors import DicomAdapterError, Refused, Retriable
from dicom_adapter.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_adapter.net.address import Address, parse_ae_title

MAX_PDU = 1 << 18  # bytes; a peer that sets no limit would otherwise get each file in one PDU, read whole into memory
QUEUED_PDUS = 16  # PDUs read ahead of the socket
NOT_ACCEPTED = "presentation context not accepted"


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


def silence_pynetdicom() -> None:
    """Keep pynetdicom's log records from every handler of this process: what matters is in results and errors."""
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
            link.socket.close()  # pynetdicom leaves it open when the peer was the first to close


@define(kw_only=True)
class _Link:
    """What pynetdicom tells in events only."""

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
        if event.assoc.dul.socket:  # another one than before: TLS is wrapped around it
            self.socket = event.assoc.dul.socket.socket
        if self.socket:
            self.socket.settimeout(self.timeout)  # a peer that stops reading
            # A C-STORE is two small PDUs; the second must not wait for the acknowledgement of the first.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_sent(self, _event: evt.Event) -> None:
        # A peer that writes its response in two pieces waits 40 ms for the acknowledgement of the first, unless it is
        # sent at once. Linux forgets this option with every exchange; elsewhere there is none.
        if self.socket and hasattr(socket, "TCP_QUICKACK"):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _on_received(self, event: evt.Event) -> None:
        # A rejection that comes before pynetdicom has looked whether it is connected is no rejection to it.
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
        raise _why_not(association, address, link, time.monotonic() - started)
    _bound_memory(association)
    return association


def _application_entity(ae_title: str, timeout: float) -> AE:
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = timeout
    entity.network_timeout = None  # it would end an association on which only this side has been talking for long
    return entity


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


def _why_not(association: Association, address: Address, link: _Link, seconds: float) -> DicomAdapterError:
    answer = link.rejection
    if answer is not None:
        family = AssociationRejected if answer.result == 1 else AssociationRejectedForNow
        reason = f"{answer.reason_str} ({answer.result_str}, by the {answer.source_str})".lower()
        return family(f"{address} rejected the association: {reason}")
    if association.rejected_contexts:
        return NothingAccepted(f"{address}: {NOT_ACCEPTED}")
    if not link.connected:
        return PeerUnreachable(f"{address} cannot be reached: {_why_unreachable(address, seconds, link)}")
    if seconds >= link.timeout:
        return PeerUnreachable(f"{address} did not answer the association request within {link.timeout:g} seconds")
    return AssociationLost(f"{address} aborted the association request, or closed the connection")


def _why_unreachable(address: Address, seconds: float, link: _Link) -> str:
    """pynetdicom keeps the reason to its log, so the attempt is repeated, unless it was a long one."""
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


def lost(timeout: float) -> str:
    return f"association lost: aborted or closed by the peer, or no answer within {timeout:g} seconds"


def status_in_words(status: int) -> str:
    known = {**GENERAL_STATUS, **STORAGE_SERVICE_CLASS_STATUS}.get(status)
    return f"0x{status:04X} {known[1] if known else 'unknown status'}".rstrip()
