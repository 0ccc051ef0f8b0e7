"""`Server`: something that a plugin serves on a port of its own, in the host process."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Server(ABC):
    """The base of the servers that a plugin brings; the host starts them, watches them, and stops them.

    `start` is called again, after a pause, when it raises or when `is_alive` says no. `status` names it by `name`.
    """

    name: str  # such as "gRPC LUNG"; of several that a plugin brings under one name, the last one counts

    @abstractmethod
    def start(self) -> None:
        """Begin to serve, on threads of its own. Raises OSError when the address cannot be had."""

    @abstractmethod
    def is_alive(self) -> bool:
        """Whether it serves. Must return at once, or hang when the server does: then the host reports it."""

    @abstractmethod
    def stop(self) -> None:
        """End, and let go of the port. Called once after each `start` that succeeded."""
