"""Connections that send nothing, to the DICOM port and to the HTTP port."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

CONNECT_SECONDS = 1.0  # longest wait for a connection
# The address of senders and composer, and another one: its connections must not keep senders and composer out.
ADDRESSES = ("127.0.0.1", "127.0.0.2")


@contextmanager
def silent_connections(port: int, number: int, address: str) -> Iterator[None]:
    """Hold `number` idle connections from `address` until the block ends. The adapter may close them earlier."""
    with ExitStack() as connections:
        for _number in range(number):
            try:
                connection = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS, (address, 0))
            except OSError:  # the adapter is not listening, or accepts no more connections
                break
            connections.enter_context(connection)
        yield
