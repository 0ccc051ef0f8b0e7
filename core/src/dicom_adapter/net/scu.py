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
from pydicom.uid import UID
from pynetdicom import AE, Association, _config, build_context, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA, A_ASSOCIATE, MaximumLengthNotification
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined] # the module makes its names at run time
from pynetdicom.status import GENERAL_STATUS, STORAGE_SERVICE_CLASS_STATUS, code_to_category

from dicom_adapter.errors import DicomAdapterError, Refused, Retriable
from dicom_adapter.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, UID_GRAMMAR

DEFAULT_TIMEOUT = 30.0  # seconds
MAX_CONTEXTS = 128  # presentation contexts in one association: their IDs are the odd numbers of one byte (PS3.8 9.3.2.2)
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
    with _associated(address, calling_ae_title, [(Verification, "1.2.840.10008.1.2")], timeout) as association:
        started = time.perf_counter()
        answer = association.send_c_echo()
        seconds = time.perf_counter() - started
    if "Status" not in answer:
        raise AssociationLost(f"{address} accepted the association and {_lost(seconds, timeout)}")
    if answer.Status != 0:
        raise StatusNotSuccess(f"{address} answered the C-ECHO with {_status_in_words(answer.Status)}")
    return seconds
