"""The SCU receives each response, although pynetdicom's reactor receives messages of the same association."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset

from dicom_adapter.dicom import synthetic
from dicom_adapter.net.address import Address
from dicom_adapter.net.link import associated, send_c_store, silence_pynetdicom

PAIR = (CTImageStorage, ExplicitVRLittleEndian)
LOOPS = 3  # of the reactor; it looks for a message in each


@pytest.fixture
def address() -> Iterator[Address]:
    """The address of a node that stores everything."""
    silence_pynetdicom()
    entity = AE(ae_title="PACS")
    entity.add_supported_context(*PAIR)
    handlers: list[Any] = [(evt.EVT_C_STORE, lambda _event: 0)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    yield Address(ae_title="PACS", host="127.0.0.1", port=server.server_address[1])
    server.shutdown()


class RunningReactor(threading.Event):
    """A checkpoint at which the reactor never stops, as if it had passed it just before it should stop."""

    def __init__(self) -> None:
        super().__init__()
        self.loops = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        time.sleep(0.002)  # the reactor looks like a paused one during this time
        self.loops.release()
        return True


def delay_sender(association: Association, reactor: RunningReactor) -> None:
    """Let the sender look for the response only after the reactor had the opportunity to receive it."""
    arrived = threading.Event()
    put, send = association.dimse.msg_queue.put, association.dimse.send_msg

    def note_and_put(item: Any) -> None:
        put(item)
        arrived.set()

    def send_and_wait(*request: Any) -> None:
        send(*request)
        assert arrived.wait(20)
        while reactor.loops.acquire(blocking=False):
            pass
        for _loop in range(LOOPS):
            assert reactor.loops.acquire(timeout=20)

    association.dimse.msg_queue.put = note_and_put  # type: ignore[method-assign,assignment] # called with the item only
    association.dimse.send_msg = send_and_wait  # type: ignore[method-assign] # its parameters are passed on


def test_the_reactor_does_not_take_a_response(address: Address, tmp_path: Path) -> None:
    """Without this, an instance that the node has stored would be sent again after the time limit of the response.

    Verified to fail when the reactor may receive messages.
    """
    path = tmp_path / "1.dcm"
    data_set = synthetic.make_instance(modality="CT", transfer_syntax=ExplicitVRLittleEndian)
    synthetic.write(data_set, path)
    reactor = RunningReactor()
    with associated(address, "SENDER", [PAIR], timeout=2) as association:
        association._reactor_checkpoint = reactor
        delay_sender(association, reactor)
        response = send_c_store(association, path, split_dataset(path)[1], PAIR, data_set.SOPInstanceUID, 1)
    assert 0 == response.Status
