"""DCMTK's storescp as a destination for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection

import receive_products

from support.requirements import required
from support.restartable import RestartableProcess, free_ports

AE_TITLE = "STORESCP"
SECONDS = 30.0  # time limit of its start


class StorescpNode(RestartableProcess):
    """A `storescp` that writes each data set as it arrives, always with the same folder and port.

    It has one process for all associations, so that it serves one after another. Each of several processes would delete
    the file of an instance whose transfer it sees fail, even if another process has stored this instance meanwhile.
    """

    def __init__(self, program: str, folder: Path, store: Path | None = None) -> None:
        """`store`: folder for the received files; by default, a new one in `folder`."""
        folder.mkdir(parents=True)
        super().__init__(folder / "storescp.log")
        self.store = store or folder / "store"
        self.store.mkdir(exist_ok=True)
        [self.port] = free_ports(1)
        self._program = program

    def start(self, *options: str) -> None:
        """Start the program. `options`: additional ones."""
        fixed = ("--bit-preserving", "--accept-all", "--promiscuous", "--disable-host-lookup")
        self.launch(self._program, *fixed, "--aetitle", AE_TITLE, "--output-directory", self.store, *options, self.port)

    def wait(self) -> None:
        """Wait until it accepts connections."""
        pause = threading.Event()
        for _try in range(int(SECONDS / 0.05)):
            try:
                create_connection(("127.0.0.1", self.port), SECONDS).close()
            except OSError:
                assert self.is_running, "storescp has ended"
                pause.wait(0.05)
            else:
                return
        raise AssertionError("storescp does not listen")

    def files(self) -> list[Path]:
        """Return the Part 10 files of all instances."""
        return sorted(self.store.iterdir())


def storescp_node(folder: Path) -> Iterator[StorescpNode]:
    """Yield a running node: the body of a fixture. Skip the test if DCMTK is not installed."""
    program = required(receive_products.find_dcmtk(), "dcmtk", "DCMTK's storescp is not installed")
    node = StorescpNode(program, folder)
    try:
        node.start()
        node.wait()
        yield node
    finally:
        node.kill()
