"""`Server`: a network server of a plugin, on its own port, in the host process."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Server(ABC):
    """Base class of the servers that a plugin provides. The host starts, watches and stops them.

    The host calls `start` again after a pause if it raises, or if `is_alive` returns False.
    """

    name: str  # shown by `status`, such as "gRPC LUNG"; the last one wins if a plugin uses a name twice

    @abstractmethod
    def start(self) -> None:
        """Start serving on separate threads. Raises OSError if it cannot bind its address."""

    @abstractmethod
    def is_alive(self) -> bool:
        """Return whether the server is running. Must return at once; the host reports a call that hangs."""

    @abstractmethod
    def stop(self) -> None:
        """Stop serving and release the port. Called once after each successful `start`."""
