"""`Server`: a network server of a plugin, on its own port, in the host process."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Server(ABC):
    """Base class of the servers that a plugin provides. The host starts, watches and stops them.

    If `start` raises, or `is_alive` returns False, the host pauses and then calls `start` again.
    """

    # Name that `status` shows, such as "gRPC LUNG". If several servers of a plugin have the same name, only the last of
    # them is used.
    name: str

    @abstractmethod
    def start(self) -> None:
        """Start serving on separate threads. Raises OSError if the server cannot bind its address."""

    @abstractmethod
    def is_alive(self) -> bool:
        """Return whether the server is running. Must return at once; `status` reports a call that does not return."""

    @abstractmethod
    def stop(self) -> None:
        """Stop serving and release the port. The host calls this method once after each successful `start`."""
