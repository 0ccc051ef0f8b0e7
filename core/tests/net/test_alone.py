"""An instance may be committed inline while its connection is the only one.

Other connections never wait for an inline commit.
"""

from __future__ import annotations

import socket
from pathlib import Path

from dicom_adapter.dicom.synthetic import make_instance, write
from dicom_adapter.net import scu
from dicom_adapter.net.address import Address
from support.listening import SECONDS, Listen, wait_until


def test_inline_commits_need_a_single_open_connection(listen: Listen, tmp_path: Path) -> None:
    """A second connection counts even before it requests an association."""
    path = tmp_path / "one.dcm"
    write(make_instance(rows=1, columns=1), path)
    listening = listen()
    address = Address(ae_title="ANY", host="127.0.0.1", port=listening.port)

    def send_beside(others: int) -> None:
        """Send one file, and wait until only `others` connections are open."""
        scu.send([path], address, calling_ae_title="SENDER", timeout=SECONDS)
        wait_until(lambda: listening.server.admission.connections == others)

    send_beside(0)
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS):
        wait_until(lambda: listening.server.admission.connections == 1)
        send_beside(1)
    wait_until(lambda: listening.server.admission.connections == 0)
    send_beside(0)
    assert [True, False, True] == listening.decisions.alone
