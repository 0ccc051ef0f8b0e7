"""The benchmark's sender sends valid DICOM and counts only success responses."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import receive_instances
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.sop_class import CTImageStorage, Verification
from receive_link import Link, LinkFailed
from receive_pdus import (
    FRAGMENT,
    HEADER,
    Message,
    associate_request,
    make_uid,
    read_fragments,
    status_of,
    store_request,
)

SMALL = receive_instances.encode(16)
STUDY, SERIES = make_uid(2, 7), make_uid(3, 7)
SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700


@contextmanager
def scp(status: int, received: list[evt.Event]) -> Iterator[int]:
    """Run pynetdicom's SCP, which answers C-STORE with `status`. Yields its port."""

    def store(event: evt.Event) -> int:
        received.append(event)
        return status

    entity = AE()
    entity.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def pdus(data: bytes) -> Iterator[bytes]:
    """Split consecutive PDUs."""
    while data:
        length = HEADER.size + HEADER.unpack_from(data)[1]
        yield data[:length]
        data = data[length:]


def sent_data_set(message: Message) -> bytes:
    fragments = [fragment for pdu in pdus(bytes(message.data)) for fragment in read_fragments(pdu[HEADER.size :])]
    return b"".join(data for control, data in fragments if not control & 1)


def test_pynetdicom_reads_the_association_request() -> None:
    """AE titles and proposed presentation contexts are those of the request."""
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(associate_request("LUNG", "BENCH"))
    assert ("LUNG", "BENCH") == (pdu.called_ae_title.strip(), pdu.calling_ae_title.strip())
    proposed = [(item.context_id, item.abstract_syntax, item.transfer_syntax) for item in pdu.presentation_context]
    assert [(1, CTImageStorage, [ExplicitVRLittleEndian]), (3, Verification, ["1.2.840.10008.1.2"])] == proposed


@pytest.mark.parametrize("longest", [4096, 16384, 131072])
def test_pdus_respect_the_maximum_length_of_the_receiver(longest: int) -> None:
    """The maximum length counts the variable field of a P-DATA-TF PDU (PS3.8 annex D.1)."""
    data = bytes(store_request(receive_instances.encode(128), STUDY, SERIES, longest).data)
    lengths = [HEADER.unpack_from(pdu)[1] for pdu in pdus(data)]
    assert max(lengths) <= longest
    for pdu in pdus(data):
        P_DATA_TF().decode(pdu)


def test_a_renamed_message_changes_only_the_instance_uid() -> None:
    """Command and data set have the new SOP Instance UID. All other bytes are unchanged."""
    message = store_request(SMALL, STUDY, SERIES, 16384)
    first = dcmread(io.BytesIO(sent_data_set(message)), force=True)
    message.rename(make_uid(1, 5))
    second = dcmread(io.BytesIO(sent_data_set(message)), force=True)
    assert (make_uid(1, 5), STUDY, SERIES) == (
        second.SOPInstanceUID,
        second.StudyInstanceUID,
        second.SeriesInstanceUID,
    )
    assert [first.PixelData, first.PatientID] == [second.PixelData, second.PatientID]
    assert 2 == bytes(message.data).count(make_uid(1, 5).encode())


def test_a_uid_that_is_split_between_pdus_is_refused() -> None:
    """Such a UID could not be replaced in one place."""
    uid_at = SMALL.find(receive_instances.INSTANCE_PLACEHOLDER.encode())
    with pytest.raises(ValueError, match="split the SOP Instance UID"):
        store_request(SMALL, STUDY, SERIES, uid_at + 10 + FRAGMENT.size)


def test_a_response_without_status_is_not_a_success() -> None:
    with pytest.raises(ValueError, match="without a status"):
        status_of(b"\0\0\0\0\4\0\0\0\0\0\0\0")


def test_a_receiver_gets_each_instance_once_with_a_unique_uid() -> None:
    """C-ECHO and C-STORE are answered with success, and the received instances are those that were sent."""
    received: list[evt.Event] = []
    with scp(SUCCESS, received) as port, Link(port, "BENCH") as link:
        link.echo()
        message = store_request(SMALL, STUDY, SERIES, link.accepted.maximum_length)
        for number in range(3):
            link.store(message.rename(make_uid(1, number)))
    assert [make_uid(1, number) for number in range(3)] == [event.request.AffectedSOPInstanceUID for event in received]
    assert [STUDY] * 3 == [event.dataset.StudyInstanceUID for event in received]


def test_a_refused_instance_ends_the_run() -> None:
    """A refused instance must not be counted as received."""
    with scp(OUT_OF_RESOURCES, []) as port, pytest.raises(LinkFailed, match="0xA700"), Link(port, "BENCH") as link:
        link.store(store_request(SMALL, STUDY, SERIES, 16384).rename(make_uid(1, 1)))
