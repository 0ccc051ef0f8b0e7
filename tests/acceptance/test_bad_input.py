"""Invalid input of peers is rejected or refused with a reason, affects nothing else, and leaks no resources."""

from __future__ import annotations

import socket
import sqlite3
import struct
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from io import BytesIO
from typing import Any

import pytest
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dsutils import decode, encode

from dicom_adapter.dicom import synthetic
from dicom_adapter.ledger import Ledger, Transaction, instances, recorded_events
from dicom_adapter.operations.not_entered import NO_BACKLOG, measure_backlog
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import INSTANCE_LINES, STORAGE, PlatformFolder, Run, incomplete_records
from support.listening import wait_until
from support.requestor import associate, rejection, wait_for_rejection

CONFIGURATION = (
    INSTANCE_LINES
    + STORAGE
    + """
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"

[ae-titles.ACCESSION.settings]
group-by = "AccessionNumber"
pipeline-a = "pipeline-1"

[ae-titles.NAMED]
allowed-callers = ["CT1", { ae-title = "CT2", host = "10.0.0.0/8" }]
settings = { interrupted = "submit", pipeline-a = "pipeline-1" }

[ae-titles.NEARBY]
allowed-callers = [{ host = "127.0.0.0/8" }]
settings = { interrupted = "submit", pipeline-a = "pipeline-1" }
"""
)

# Result, source, reason of A-ASSOCIATE-RJ (PS3.8 table 9-21)
CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)
CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
TEMPORARY_CONGESTION = (2, 3, 1)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)

# PDU types (PS3.8 section 9.3)
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
COMMAND, LAST = 1, 2  # bits of a message control header (PS3.8 annex E.2)

SUCCESS = 0x0000
DATA_SET_DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000


class Peer:
    """A sender of CT images in explicit VR little endian that can also send invalid PDUs."""

    def __init__(self, port: int, called: str, calling: str = "SENDER", *, wait: bool = True) -> None:
        """Connect and request an association. If `wait` is set, `answer` is the type of the PDU that is returned."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.send(ASSOCIATE_RQ, association_request(called, calling))
        self.answer = self.receive()[0] if wait else None

    def send(self, kind: int, body: bytes, missing: int = 0) -> None:
        """Send a PDU. The length in the header is `missing` bytes larger than the sent body."""
        self._socket.sendall(struct.pack(">BBI", kind, 0, len(body) + missing) + body)

    def receive(self) -> tuple[int, bytes]:
        kind, _reserved, length = struct.unpack(">BBI", self._read(6))
        return kind, self._read(length)

    def store(self, data_set: bytes, sop_instance_uid: str) -> int:
        """Send one C-STORE and return the status of its response."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a text that is not a UID
            self.send(P_DATA, command(sop_instance_uid))
            self.send(P_DATA, fragment(data_set, LAST))
            _kind, body = self.receive()
            response = decode(BytesIO(body[6:]), is_implicit_vr=True, is_little_endian=True)
            assert sop_instance_uid == response.AffectedSOPInstanceUID
        status: int = response.Status
        return status

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Release the association, unless the test failed."""
        if failed is None:
            self.send(RELEASE_RQ, bytes(4))
            assert RELEASE_RP == self.receive()[0]
        self.close()

    def rest(self) -> bytes:
        """Shut down sending, and return all bytes that still arrive."""
        with suppress(OSError):  # the service may have closed the connection already
            self._socket.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: self._socket.recv(4096), b""))
        return b""

    def close(self) -> None:
        self._socket.close()

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            assert piece, "the service closed the connection"
            data += piece
        return data


def association_request(called: str, calling: str) -> bytes:
    """Encode the body of an A-ASSOCIATE-RQ with one presentation context (PS3.8 section 9.3.2)."""
    context = bytes([1, 0, 0, 0]) + item(0x30, CTImageStorage) + item(0x40, ExplicitVRLittleEndian)
    user = struct.pack(">BBHI", 0x51, 0, 4, 16384) + item(0x52, "1.2.3")
    items = item(0x10, "1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    return struct.pack(">HH", 1, 0) + titles + bytes(32) + items


def item(kind: int, body: str | bytes) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    return struct.pack(">BBH", kind, 0, len(data)) + data


def command(sop_instance_uid: str) -> bytes:
    """Encode a P-DATA body with the complete command set of a C-STORE request (PS3.7 section 9.3.1.1)."""
    request = Dataset()
    request.AffectedSOPClassUID = CTImageStorage
    request.CommandField = 0x0001
    request.MessageID = 1
    request.Priority = 0
    request.CommandDataSetType = 0x0001
    request.AffectedSOPInstanceUID = sop_instance_uid
    body = encode(request, is_implicit_vr=True, is_little_endian=True)
    assert body is not None
    group_length = struct.pack("<HHII", 0, 0, 4, len(body))
    return fragment(group_length + body, COMMAND | LAST)


def fragment(data: bytes, control: int) -> bytes:
    """Encode a P-DATA body with one fragment (PS3.8 section 9.3.5.1)."""
    return struct.pack(">IBB", len(data) + 2, 1, control) + data


def encoded(data_set: Dataset) -> bytes:
    data = encode(data_set, is_implicit_vr=False, is_little_endian=True)
    assert data is not None
    return data


def with_value(keyword: str, value: str | None, sop_uid: str = "1.2.3", **attributes: Any) -> bytes:
    """Encode a CT image in which one attribute has an invalid value, or is missing if the value is None."""
    data_set = synthetic.make_instance(sop_uid=sop_uid, **attributes)
    del data_set[keyword]
    with config.disable_value_validation():
        if value is not None:
            setattr(data_set, keyword, value)
        return encoded(data_set)


def store_valid_instance(peer: Peer, **attributes: Any) -> str:
    """Store a valid CT image, check that it is acknowledged, and return its SOP Instance UID."""
    data_set = synthetic.make_instance(**attributes)
    uid = str(data_set.SOPInstanceUID)
    assert SUCCESS == peer.store(encoded(data_set), uid)
    return uid


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedService]:
    """A service shared by the tests that do not need another configuration."""
    path = tmp_path_factory.mktemp("bad-input") / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    launched = LaunchedService(path, "--port", "0")
    send_identifiable_patient(launched)
    yield launched
    launched.kill()


def send_identifiable_patient(service: LaunchedService) -> None:
    """Send instances of a patient whose name must never be logged: some are stored, some refused, some quarantined."""
    patient = {"patient_id": "ID-OF-SOMEBODY", "patient_name": "Somebody^With^A^Name"}
    with Peer(service.port(), "NAMED", calling="CT1") as peer:
        store_valid_instance(peer, **patient)
        for keyword in ("StudyInstanceUID", "PatientID", "PatientBirthDate"):
            # The data set is cut off within the value: an error of the parser could quote the first half of the value.
            data_set = with_value(keyword, "SOMEBODY\\SOMEBODY", **patient)
            assert SUCCESS != peer.store(data_set[: data_set.rindex(b"SOMEBODY")], "1.2.3")
        assert SUCCESS != peer.store(encoded(synthetic.make_instance(**patient)), "SOMEBODY")  # instead of a UID
    with Peer(service.port(), "ACCESSION") as peer:
        store_valid_instance(peer, **patient)


# --- associations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("called", "calling", "expected"),
    [
        ("NOBODY", "CT1", CALLED_AE_TITLE_NOT_RECOGNIZED),
        ("lung", "CT1", CALLED_AE_TITLE_NOT_RECOGNIZED),
        ("NAMED", "MR1", CALLING_AE_TITLE_NOT_RECOGNIZED),
        ("NAMED", "CT2", CALLING_AE_TITLE_NOT_RECOGNIZED),  # not from the allowed network of CT2
    ],
)
def test_unwanted_associations_are_rejected_permanently(
    service: LaunchedService, called: str, calling: str, expected: tuple[int, int, int]
) -> None:
    """An unknown called AE title and a calling AE title that is not allowed have different reasons."""
    assert expected == rejection(service.port(), called, calling)


@pytest.mark.parametrize(("called", "calling"), [("NAMED", "CT1"), ("NEARBY", "ANYONE")])
def test_callers_are_allowed_by_ae_title_or_by_network(service: LaunchedService, called: str, calling: str) -> None:
    """One matching entry of allowed-callers is enough."""
    assert rejection(service.port(), called, calling) is None


@pytest.mark.dcmtk
def test_dcmtk_shows_the_reason_of_a_rejection(service: LaunchedService, dcmtk: Run) -> None:
    refused = dcmtk("echoscu", "-aec", "NOBODY", "127.0.0.1", service.port(), check=False)
    output = refused.stdout + refused.stderr
    assert "Result: Rejected Permanent, Source: Service User" in output
    assert "Reason: Called AE Title Not Recognized" in output


def test_nothing_can_be_stored_after_a_rejection(service: LaunchedService) -> None:
    """A peer that ignores the rejection gets no response, and nothing is stored.

    Verified to fail when the association is established in spite of the rejection.
    """
    peer = Peer(service.port(), "NOBODY")
    assert ASSOCIATE_RJ == peer.answer
    data_set = encoded(synthetic.make_instance(sop_uid="1.2.3"))
    peer.send(P_DATA, command("1.2.3") + fragment(data_set, LAST))
    assert b"" == peer.rest()
    peer.close()
    assert [] == service.logged("instance_stored", sop_instance_uid="1.2.3")


def test_an_association_beyond_the_limit_is_rejected_temporarily(launch_service: LaunchService) -> None:
    """At the limit `max-associations`, an association is accepted only after another has ended."""
    service = launch_service("[dicom]\nmax-associations = 2\n" + CONFIGURATION)
    first, second = (associate(service.port(), "LUNG") for _number in range(2))
    assert LOCAL_LIMIT_EXCEEDED == rejection(service.port(), "LUNG")
    first.release()
    assert rejection(service.port(), "LUNG") is None
    second.release()


def test_peers_that_disconnect_before_the_response_occupy_no_association(service: LaunchedService) -> None:
    for _number in range(30):  # more than the default of max-associations, 25
        Peer(service.port(), "LUNG", wait=False).close()
    with Peer(service.port(), "LUNG") as peer:
        assert ASSOCIATE_AC == peer.answer


def test_associations_are_rejected_temporarily_while_the_ledger_fails(service: LaunchedService) -> None:
    """Once the ledger works again, associations are accepted."""
    rename = "ALTER TABLE {} RENAME TO {}"
    with closing(sqlite3.connect(service.configuration.parent / "data" / "ledger.sqlite")) as ledger:
        ledger.execute(rename.format("lanes", "elsewhere"))
        answer = wait_for_rejection(service.port(), "LUNG")
        ledger.execute(rename.format("elsewhere", "lanes"))
    assert TEMPORARY_CONGESTION == answer
    with Peer(service.port(), "LUNG") as peer:
        assert ASSOCIATE_AC == peer.answer


# --- instances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data_set", "status"),
    [
        (encoded(synthetic.make_instance(sop_uid="1.2.4")), DATA_SET_DOES_NOT_MATCH),
        (with_value("StudyInstanceUID", None), DATA_SET_DOES_NOT_MATCH),
        (with_value("SeriesInstanceUID", None), DATA_SET_DOES_NOT_MATCH),
        (with_value("SOPInstanceUID", None), DATA_SET_DOES_NOT_MATCH),
        (encoded(synthetic.make_instance(sop_uid="1.2.3")).partition(b".2.3")[0], CANNOT_UNDERSTAND),  # within the UID
        (b"this is no data set, although its sender claims that it is", CANNOT_UNDERSTAND),
        (b"", CANNOT_UNDERSTAND),
    ],
    ids=["another SOP instance", "no study", "no series", "no SOP instance", "cut off", "garbage", "nothing"],
)
def test_an_invalid_data_set_is_refused_and_the_next_valid_one_is_stored(
    service: LaunchedService, data_set: bytes, status: int
) -> None:
    """The response has a failure status, the log has the reason, nothing is stored, and the association continues."""
    before = len(service.logged("instance_refused", sop_instance_uid="1.2.3"))
    stored = instances_in_ledger(service)
    with Peer(service.port(), "LUNG") as peer:
        assert status == peer.store(data_set, "1.2.3")
        refused = service.wait_for("instance_refused", sop_instance_uid="1.2.3", times=before + 1)
        assert f"0x{status:04X}" == refused["status"]
        assert stored == instances_in_ledger(service)
        store_valid_instance(peer)
    assert stored + 1 == instances_in_ledger(service)


def test_an_instance_that_cannot_be_grouped_is_quarantined(service: LaunchedService) -> None:
    """An instance without the attribute of `group-by` is acknowledged and kept. Log and event have the reason."""
    with Peer(service.port(), "ACCESSION") as peer:
        store_valid_instance(peer)
    logged = service.wait_for("instance_quarantined", ae_title="ACCESSION", times=2)  # the first is from the fixture
    assert "groups by AccessionNumber (0008,0050), which is missing or empty" in logged["reason"]
    with open_ledger(service) as transaction:
        assert 2 == instances.count_by_state(transaction)["ACCESSION", "quarantined"]
        [quarantined] = recorded_events.of_instance(transaction, logged["instance_id"])
    assert ("instance_quarantined", logged["reason"]) == (quarantined.event, quarantined.detail["reason"])


@pytest.mark.parametrize("hostile", ["../../../evil", "/evil", "evil\0evil", "evil" * 2500], ids=lambda text: text[:9])
def test_data_from_peers_never_becomes_part_of_a_path(service: LaunchedService, hostile: str) -> None:
    """Hostile UIDs are refused, hostile patient IDs are stored as values.

    Neither becomes the name of a file or folder.
    """
    folder = service.configuration.parent
    before = {path.name for path in folder.iterdir()}
    with Peer(service.port(), "LUNG", calling="../../evil") as peer:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            assert DATA_SET_DOES_NOT_MATCH == peer.store(with_value(keyword, hostile), "1.2.3")
        uid = synthetic.make_uid()
        assert SUCCESS == peer.store(with_value("PatientID", hostile, uid), uid)
    assert before == {path.name for path in folder.iterdir()}
    assert [] == list(folder.parent.rglob("*evil*"))


def test_only_acknowledged_instances_become_jobs(service: LaunchedService) -> None:
    """One association is aborted after an instance, one is aborted and one is lost within a data set."""
    beginning = fragment(encoded(synthetic.make_instance(sop_uid="1.2.3"))[:1000], 0)
    acknowledged = []
    for within_data_set, lost in ((False, False), (True, False), (True, True)):
        peer = Peer(service.port(), "NEARBY")
        acknowledged.append(store_valid_instance(peer))
        if within_data_set:
            peer.send(P_DATA, command("1.2.3"))
            peer.send(P_DATA, beginning, missing=1000 if lost else 0)  # the connection is lost within a PDU
        if not lost:
            peer.send(ABORT, bytes(4))
        peer.close()
    service.wait_for("association_closed", ae_title="NEARBY", how="aborted", times=2)
    service.wait_for("association_closed", ae_title="NEARBY", how="lost")
    service.wait_for("job_submitted", ae_title="NEARBY", times=3)
    platform = PlatformFolder(service.configuration.parent / "platform")
    submitted = [job["instances"] for job in platform.jobs if job["aeTitle"] == "NEARBY"]
    assert sorted(acknowledged) == sorted(entry["sopInstanceUid"] for [entry] in submitted)
    assert [] == incomplete_records(service.configuration.parent / "data")


def test_the_log_never_names_a_patient(service: LaunchedService) -> None:
    """The fixture `service` has sent instances of SOMEBODY: some were submitted, some refused, some quarantined.

    Verified to fail when text that is not a UID is logged as one.
    """
    service.wait_for("instance_refused", ae_title="NAMED", times=4)  # all that `send_identifiable_patient` sends
    refused = service.logged("instance_refused", ae_title="NAMED")
    assert 1 == sum("sop_instance_uid" not in entry for entry in refused)  # SOMEBODY is not a UID: not logged
    service.wait_for("instance_quarantined")
    service.wait_for("job_submitted", ae_title="NAMED")
    log = service.log_file.read_text(encoding="utf-8")
    assert [] == [line for line in log.splitlines() if "SOMEBODY" in line.upper()]


@contextmanager
def open_ledger(service: LaunchedService) -> Iterator[Transaction]:
    ledger = Ledger(f"sqlite:///{service.configuration.parent / 'data' / 'ledger.sqlite'}")
    with ledger.read() as transaction:
        yield transaction
    ledger.close()


def instances_in_ledger(service: LaunchedService) -> int:
    """Return the number of all instances in the ledger, in any state, when all stored instances are entered."""

    def is_entered() -> bool:
        with open_ledger(service) as transaction:
            return measure_backlog(service.configuration.parent / "data", transaction) == NO_BACKLOG

    wait_until(is_entered)
    with open_ledger(service) as transaction:
        return instances.last_number(transaction)
