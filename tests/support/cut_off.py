"""A sender that ends its association in the middle of an instance."""

from __future__ import annotations

import socket
import struct

from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from support.conversation import ABORT, COMMAND, LAST, associate, command_set, p_data, pdv, store


def send_and_abort(port: int, called: str, data_sets: list[Dataset]) -> None:
    """Send data sets as CT1 in one association, the last one only in part, and abort the association."""
    *whole, last = data_sets
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(associate(called=called.encode()))
        _receive(connection)
        for data_set in whole:
            connection.sendall(store(_encoded(data_set), instance=data_set.SOPInstanceUID))
            _receive(connection)
        beginning = pdv(command_set(instance=last.SOPInstanceUID), COMMAND | LAST)
        connection.sendall(p_data(beginning) + p_data(pdv(_encoded(last)[:600], 0)) + ABORT)


def _encoded(data_set: Dataset) -> bytes:
    encoded = encode(data_set, is_implicit_vr=False, is_little_endian=True)
    assert encoded is not None
    return encoded


def _receive(connection: socket.socket) -> None:
    with connection.makefile("rb") as stream:
        _kind, length = struct.unpack(">BxI", stream.read(6))
        stream.read(length)
