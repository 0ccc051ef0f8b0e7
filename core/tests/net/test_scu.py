"""The SCU against real peers: pynetdicom's storage SCP and, where it is installed, DCMTK's."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from attrs import define, field
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    MRImageStorage,
    RLELossless,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.dsutils import split_dataset
from typer.testing import CliRunner

from dicom_adapter.api.errors import DicomAdapterError
from dicom_adapter.cli.send import echo as echo_command
from dicom_adapter.cli.send import send as send_command
from dicom_adapter.dicom import synthetic
from dicom_adapter.dicom.files import SkippedFile, find_dicom
from dicom_adapter.net import scu
from dicom_adapter.net.address import Address, InvalidAddress, parse_address
from dicom_adapter.net.link import (
    QUEUED_PDUS,
    AssociationLost,
    AssociationRejected,
    AssociationRejectedTransient,
    NoContextAccepted,
    PeerUnreachable,
    StatusNotSuccess,
    associated,
    silence_pynetdicom,
)
from dicom_adapter.net.results import Grouping, SendResult, SendSummary

VERIFICATION = "1.2.840.10008.1.1"
ALL_STORAGE = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
BIT_IDENTICAL = [
    ("MR_small_implicit.dcm", ImplicitVRLittleEndian),
    ("CT_small.dcm", ExplicitVRLittleEndian),
    ("MR_small_bigendian.dcm", ExplicitVRBigEndian),
    ("SC_rgb_small_odd_jpeg.dcm", JPEGBaseline8Bit),
    ("MR_small_RLE.dcm", RLELossless),
]
CLI = typer.Typer()
CLI.command()(send_command)
CLI.command()(echo_command)


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Switch off pynetdicom's log, which would be formatted for every PDU."""
    silence_pynetdicom()


@define
class Peer:
    """A storage SCP and the instances that it has received."""

    address: Address
    received: list[tuple[str, bytes]] = field(factory=list)  # SOP instance UID, encoded data set
    associations: int = 0


@contextmanager
def peer(
    *,
    sop_classes: list[str] = ALL_STORAGE,
    transfer_syntaxes: list[str] = ALL_TRANSFER_SYNTAXES,
    answer: Callable[[evt.Event], int] = lambda _event: 0,
    requested: Callable[[evt.Event], None] = lambda _event: None,
    echo_status: int = 0,
) -> Iterator[Peer]:
    """Listen on a free port.

    `answer` returns the C-STORE status; `requested` is called for each association request.
    """

    def on_store(event: evt.Event) -> int:
        status = answer(event)
        remote.received.append((event.request.AffectedSOPInstanceUID, event.request.DataSet.getvalue()))
        return status

    def on_requested(event: evt.Event) -> None:
        remote.associations += 1
        requested(event)

    entity = AE(ae_title="LUNG")
    entity.require_called_aet = True
    for sop_class in [VERIFICATION, *sop_classes]:
        entity.add_supported_context(sop_class, transfer_syntaxes)
    handlers = [
        (evt.EVT_C_STORE, on_store),
        (evt.EVT_REQUESTED, on_requested),
        (evt.EVT_C_ECHO, lambda _event: echo_status),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    remote = Peer(address=Address(ae_title="LUNG", host="127.0.0.1", port=server.socket.getsockname()[1]))
    try:
        yield remote
    finally:
        server.shutdown()


@contextmanager
def unresponsive_peer(*, listening: bool) -> Iterator[Address]:
    """Yield an address that refuses connections or, if `listening`, accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) if listening else socket.socket() as sock:
        if not listening:
            sock.bind(("127.0.0.1", 0))
        yield Address(ae_title="LUNG", host="127.0.0.1", port=sock.getsockname()[1])


def study(folder: Path, **arguments: object) -> list[Path]:
    """Return the files of a synthetic study in sending order."""
    paths = []
    for number, dataset in enumerate(synthetic.make_study(**{"rows": 4, "columns": 4, **arguments})):
        paths.append(folder / f"{arguments.get('seed', '')}{number:03}.dcm")
        synthetic.write(dataset, paths[-1])
    return paths


def data_set(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]


def send(files: list[Path], address: Address, **options: object) -> SendSummary:
    return scu.send(files, address, **{"calling_ae_title": "TEST", "timeout": 10, **options})


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ae_title", "host", "port"),
    [
        ("LUNG@localhost:11112", "LUNG", "localhost", 11112),
        ("A@B C@10.0.0.1:104", "A@B C", "10.0.0.1", 104),
        ("LUNG@[::1]:104", "LUNG", "::1", 104),
        (" LUNG @host:1", "LUNG", "host", 1),
    ],
)
def test_addresses_are_parsed(text: str, ae_title: str, host: str, port: int) -> None:
    """An address has AE title, host and port. The text of an address is parsed to the same address."""
    address = parse_address(text)
    assert Address(ae_title=ae_title, host=host, port=port) == address
    assert address == parse_address(str(address))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("localhost:11112", "not of the form AET@HOST:PORT"),
        ("LUNG@localhost", "not of the form AET@HOST:PORT"),
        ("LUNG@:104", "has no host"),
        ("LUNG@host:0", "the port '0' must be a number from 1 to 65535"),
        ("LUNG@host:65536", "must be a number from 1 to 65535"),
        ("LUNG@host:dicom", "the port 'dicom' must be a number"),
        ("LUNG@::1:104", "an IPv6 address must be in brackets"),
        ("LUNG@[::g]:104", "'::g' is not an IPv6 address"),
        ("@host:104", "AE title '' must be 1 to 16"),
        ("   @host:104", "AE title '   ' must be 1 to 16"),
        ("A" * 17 + "@host:104", "must be 1 to 16"),
        ("A\\B@host:104", "without a backslash"),
        ("LÜNG@host:104", "printable ASCII"),
    ],
)
def test_invalid_addresses_are_refused_with_the_reason(text: str, problem: str) -> None:
    """The message names the mistake."""
    with pytest.raises(InvalidAddress) as caught:
        parse_address(text)
    assert problem in str(caught.value)


# --- verification -----------------------------------------------------------------------------------------------------


def test_an_echo_returns_its_duration() -> None:
    """The duration is the round-trip time in seconds."""
    with peer() as lung:
        assert 0 < scu.echo(lung.address, "TEST", 10) < 10


def reject_for_now(event: evt.Event) -> None:
    event.assoc.acse.send_reject(2, 3, 2)
    event.assoc.kill()  # waits until the rejection has been sent


def check_echo_fails(address: Address, family: type[DicomAdapterError], reason: str, timeout: float = 10) -> None:
    with pytest.raises(family) as caught:
        scu.echo(address, "TEST", timeout)
    assert reason in str(caught.value)


def test_an_echo_reports_why_the_association_was_rejected() -> None:
    """The error has result, source and reason in words. Permanent and transient rejections are different errors."""
    with peer(requested=reject_for_now) as lung:
        check_echo_fails(lung.address, AssociationRejectedTransient, "local limit exceeded (rejected transient, by")
    with peer() as lung:
        other = Address(ae_title="HEAD", host="127.0.0.1", port=lung.address.port)
        check_echo_fails(
            other,
            AssociationRejected,
            "rejected the association: called ae title not recognised (rejected permanent, by the service user)",
        )


def test_an_echo_reports_an_abort() -> None:
    """The peer aborts instead of answering the association request."""
    with peer(requested=lambda event: event.assoc.abort()) as lung:
        check_echo_fails(lung.address, AssociationLost, "aborted the association request")


def test_an_echo_reports_a_failure_status() -> None:
    """The error has the code and the meaning of the status."""
    with peer(echo_status=0x0122) as lung:
        check_echo_fails(lung.address, StatusNotSuccess, "0x0122 Refused: SOP Class Not Supported")


def test_an_echo_reports_that_verification_was_not_accepted() -> None:
    """The peer does not accept the verification SOP class with any proposed transfer syntax."""
    with peer(transfer_syntaxes=[ExplicitVRLittleEndian]) as lung:
        check_echo_fails(lung.address, NoContextAccepted, "presentation context not accepted")


def test_an_echo_reports_why_the_peer_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is a refused connection, no response, or an unknown host."""
    with unresponsive_peer(listening=False) as address:
        check_echo_fails(address, PeerUnreachable, "cannot be reached: connection refused")
    with unresponsive_peer(listening=True) as address:
        check_echo_fails(address, PeerUnreachable, "did not answer the association request", timeout=0.2)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    check_echo_fails(parse_address("LUNG@nowhere:104"), PeerUnreachable, "Name or service not known")


# --- finding files ----------------------------------------------------------------------------------------------------


def test_files_are_found_in_subfolders(tmp_path: Path) -> None:
    """The files are sorted, without hidden files. Files that are not DICOM are counted; named ones are reported."""
    for name in ("b/2.dcm", "b/1", "a.dcm", ".hidden/3.dcm", "b/.4.dcm", "DICOMDIR"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        synthetic.write(synthetic.make_instance(rows=2, columns=2), tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    skipped: list[SkippedFile] = []
    named = [tmp_path, tmp_path / "notes.txt", tmp_path / "gone.dcm"]
    names = [path.relative_to(tmp_path).as_posix() for path in find_dicom(named, skipped.append)]
    assert ["a.dcm", "b/1", "b/2.dcm"] == names
    assert [
        ("DICOMDIR", "an index of files, not an instance", False),
        ("notes.txt", "not a DICOM file", False),
        ("pipe", "not a regular file", False),
        ("notes.txt", "not a DICOM file", True),
        ("gone.dcm", "cannot be read: No such file or directory", True),
    ] == [(skip.path.name, skip.reason, skip.is_failure) for skip in skipped]


# --- sending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "transfer_syntax"),
    [*BIT_IDENTICAL, ("JPEG2000.dcm", JPEG2000Lossless), ("image_dfl.dcm", DeflatedExplicitVRLittleEndian)],
)
def test_data_sets_arrive_bit_identical(name: str, transfer_syntax: str) -> None:
    """No transfer syntax is decoded or encoded on the way."""
    path = Path(str(get_testdata_file(name, download=False)))
    if name != "JPEG2000.dcm":  # the file has one of the two JPEG 2000 transfer syntaxes
        assert transfer_syntax == dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    with peer() as lung:
        summary = send([path], lung.address)
    assert (1, 1, ()) == (summary.total, summary.sent, summary.failures)
    assert [data_set(path)] == [content for _, content in lung.received]


@pytest.mark.dcmtk
@pytest.mark.parametrize(("name", "transfer_syntax"), BIT_IDENTICAL)
def test_dcmtk_receives_bit_identical_data_sets(name: str, transfer_syntax: str, tmp_path: Path) -> None:
    """storescp in its bit-preserving mode writes exactly the sent bytes."""
    path = Path(str(get_testdata_file(name, download=False)))
    with storescp(tmp_path) as address:
        assert 1 == send([path], address).sent
    (stored,) = tmp_path.iterdir()
    assert (transfer_syntax, data_set(path)) == (split_dataset(stored)[0].TransferSyntaxUID, data_set(stored))


def dcmtk_storescp() -> str | None:
    """Return the path of DCMTK's storescp. pynetdicom installs a program of the same name, which prints no version."""
    for folder in os.get_exec_path():
        program = shutil.which("storescp", path=folder)
        if program and "dcmtk" in subprocess.run([program, "--version"], capture_output=True, text=True).stdout:
            return program
    return None


@contextmanager
def storescp(folder: Path) -> Iterator[Address]:
    """Run DCMTK's SCP for one association, started as by inetd, so that the test chooses the port."""
    program = dcmtk_storescp()
    if program is None:
        pytest.skip("DCMTK's storescp is not installed")
    options = ["--inetd", "--bit-preserving", "--accept-all", "--output-directory", str(folder)]
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                subprocess.run([program, *options], stdin=connection, stdout=subprocess.DEVNULL, check=False)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Address(ae_title="STORESCP", host="127.0.0.1", port=listening.getsockname()[1])
        thread.join()


def test_the_request_has_the_uids_of_the_data_set(tmp_path: Path) -> None:
    """Another program may have changed the data set and left the file meta information as it was.

    Verified to fail when the UIDs of the file meta information are sent.
    """
    [path] = study(tmp_path, instances=1)
    content = path.read_bytes()
    own = dcmread(path).SOPInstanceUID
    other = f"{own[:-1]}{1 if own[-1] == '0' else 0}"
    path.write_bytes(
        content.replace(own.encode(), other.encode(), 1)
    )  # the first place is in the file meta information
    assert own != dcmread(path).file_meta.MediaStorageSOPInstanceUID
    with peer() as remote:
        assert () == send([path], remote.address).failures
    assert [own] == [uid for uid, _data_set in remote.received]


def test_more_than_128_pairs_take_two_associations(tmp_path: Path) -> None:
    """65 SOP classes in two transfer syntaxes need 130 presentation contexts."""
    files = []
    for sop_class in ALL_STORAGE[:65]:
        for transfer_syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
            files.append(tmp_path / f"{len(files)}.dcm")
            instance = synthetic.make_instance(
                rows=2, columns=2, SOPClassUID=sop_class, transfer_syntax=transfer_syntax
            )
            synthetic.write(instance, files[-1])
    with peer() as lung:
        summary = send(files, lung.address)
    assert (130, (), 2, 2) == (summary.sent, summary.failures, summary.associations, lung.associations)
    assert sorted(map(data_set, files)) == sorted(content for _, content in lung.received)


def test_files_fail_if_their_presentation_context_is_not_accepted(tmp_path: Path) -> None:
    """The other files of the same association are sent."""
    cts, mrs = study(tmp_path, modality="CT", seed="ct"), study(tmp_path, modality="MR", seed="mr")
    with peer(sop_classes=[CTImageStorage]) as lung:
        summary = send([*cts, *mrs], lung.address)
    assert (4, 4) == (summary.sent, len(lung.received))
    reason = "presentation context not accepted: MR Image Storage, Explicit VR Little Endian"
    assert [(path, False, None, reason) for path in mrs] == [
        (failure.path, failure.ok, failure.status, failure.message) for failure in summary.failures
    ]


def test_an_association_without_an_accepted_context_fails_its_files(tmp_path: Path) -> None:
    """A file is never transcoded into a transfer syntax that the peer would accept."""
    files = study(tmp_path)
    with peer(sop_classes=[CTImageStorage], transfer_syntaxes=[ImplicitVRLittleEndian]) as lung:
        summary = send(files, lung.address)
    assert (0, 4, []) == (summary.sent, len(summary.failures), lung.received)
    assert "presentation context not accepted" in summary.failures[0].message


@pytest.mark.parametrize(("per_association", "associations"), [(None, 1), (Grouping.STUDY, 2), (Grouping.INSTANCE, 8)])
def test_associations_are_grouped_as_requested(
    per_association: Grouping | None, associations: int, tmp_path: Path
) -> None:
    """There is one association for all files, for each study, or for each file."""
    files = [*study(tmp_path, seed="a"), *study(tmp_path, seed="b")]
    with peer() as lung:
        summary = send(files, lung.address, per_association=per_association)
    assert (8, associations, associations) == (summary.sent, summary.associations, lung.associations)
    assert list(map(data_set, files)) == [content for _, content in lung.received]


def test_statuses_are_success_warning_or_failure(tmp_path: Path) -> None:
    """Each status has a code; all statuses except success have a text."""
    statuses = iter([0x0000, 0xB000, 0xA700, 0xC123])
    results: list[SendResult] = []
    with peer(answer=lambda _event: next(statuses)) as lung:
        summary = send(study(tmp_path), lung.address, on_result=results.append)
    assert [
        (True, 0x0000, ""),
        (True, 0xB000, "0xB000 Coercion of Data Elements"),
        (False, 0xA700, "0xA700 Refused: Out of Resources"),
        (False, 0xC123, "0xC123 Cannot Understand"),
    ] == [(result.ok, result.status, result.message) for result in results]
    assert (4, 2, 1, 2) == (summary.total, summary.sent, summary.warnings, len(summary.failures))


def aborting(times: int, sop_instance: str) -> Callable[[evt.Event], int]:
    """Return a handler that aborts the association when `sop_instance` arrives, at most `times` times."""
    left = [None] * times

    def answer(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID == sop_instance and left:
            left.pop()
            event.assoc.abort()
        return 0

    return answer


def test_a_lost_association_is_opened_again_once(tmp_path: Path) -> None:
    """Instances without a response are sent again."""
    files = study(tmp_path)
    second = dcmread(files[1]).SOPInstanceUID
    with peer(answer=aborting(1, second)) as lung:
        summary = send(files, lung.address)
    assert (4, (), 2) == (summary.sent, summary.failures, summary.associations)


def test_an_instance_that_the_peer_always_aborts_fails_alone(tmp_path: Path) -> None:
    """The association is lost twice at the same file. The other files are sent."""
    files = study(tmp_path)
    second = dcmread(files[1]).SOPInstanceUID
    with peer(answer=aborting(9, second)) as lung:
        summary = send(files, lung.address)
    assert (3, [files[1]], 2) == (summary.sent, [failure.path for failure in summary.failures], summary.associations)
    assert "association lost" in summary.failures[0].message


def test_unusable_files_do_not_block_others(tmp_path: Path) -> None:
    """The files are missing, damaged, or without the UIDs that a C-STORE needs."""
    good, bare, broken = (tmp_path / name for name in ("good.dcm", "bare.dcm", "broken.dcm"))
    synthetic.write(synthetic.make_instance(), good)
    bare.write_bytes(b"\0" * 128 + b"DICM")
    broken.write_bytes(b"\0" * 128 + b"DICM\x02\x00\x10\x00UI\xff")
    with peer() as lung:
        summary = send([tmp_path / "gone.dcm", bare, broken, good], lung.address)
    assert 1 == summary.sent
    assert ["gone.dcm", "bare.dcm", "broken.dcm"] == [failure.path.name for failure in summary.failures]
    assert "No such file or directory" == summary.failures[0].message


def test_a_peer_that_cannot_be_reached_is_tried_once(tmp_path: Path) -> None:
    """All files fail with the reason, however many associations they would need."""
    with unresponsive_peer(listening=False) as address:
        summary = send(study(tmp_path), address, per_association=Grouping.INSTANCE)
    assert (0, 4, 0) == (summary.sent, len(summary.failures), summary.associations)
    assert {f"{address} cannot be reached: connection refused"} == {failure.message for failure in summary.failures}
    assert summary.gave_up == summary.failures[0].message


def test_a_transient_rejection_does_not_stop_the_other_associations(tmp_path: Path) -> None:
    """The peer may accept the next association."""
    rejections = iter([reject_for_now, lambda _event: None, lambda _event: None, lambda _event: None])
    with peer(requested=lambda event: next(rejections)(event)) as lung:
        summary = send(study(tmp_path), lung.address, per_association=Grouping.INSTANCE)
    assert (3, 1, None) == (summary.sent, len(summary.failures), summary.gave_up)


def test_large_data_sets_are_not_buffered_in_memory(tmp_path: Path) -> None:
    """Only a few fragments are read ahead of the socket."""
    path = tmp_path / "large.dcm"
    synthetic.write(synthetic.make_instance(rows=1024, columns=2048), path)
    most = 0

    def measure(event: evt.Event) -> None:
        nonlocal most
        most = max(most, event.assoc.dul.to_provider_queue.qsize())

    with peer() as lung, associated(lung.address, "T", [(CTImageStorage, ExplicitVRLittleEndian)], 10) as link:
        link.bind(evt.EVT_PDU_SENT, measure)
        _config.STORE_SEND_CHUNKED_DATASET = True
        assert 0 == link.send_c_store(path).Status
    assert 0 < most <= QUEUED_PDUS
    assert data_set(path) == lung.received[0][1]


# --- the commands -----------------------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(CLI, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_sends_a_folder(tmp_path: Path) -> None:
    """The command exits with 0 and prints the number of instances."""
    study(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    with peer() as lung:
        status, out, err = run("send", tmp_path, "--to", lung.address, "--from", "ME")
    assert (0, "") == (status, err)
    assert f"4 of 4 files sent to {lung.address}, 1 other file skipped" in out


def test_the_command_lists_files_that_could_not_be_sent(tmp_path: Path) -> None:
    """The command exits with 1 and prints the first twenty files with their reasons to stderr."""
    files = study(tmp_path, instances=25)
    (tmp_path / "notes.txt").write_text("no image")
    with peer(answer=lambda _event: 0xA700) as lung:
        status, out, err = run("send", tmp_path, tmp_path / "notes.txt", "--to", lung.address)
    lines = err.splitlines()
    assert (1, 21) == (status, len(lines))
    assert f"not sent: {tmp_path / 'notes.txt'}: not a DICOM file" == lines[0]
    assert f"not sent: {files[0]}: 0xA700 Refused: Out of Resources" == lines[1]
    assert "not sent: 6 more" == lines[-1]
    assert f"0 of 26 files sent to {lung.address}" in out


def test_the_command_reports_as_json(tmp_path: Path) -> None:
    """Standard output has one object with all failures."""
    (file,) = study(tmp_path, instances=1)
    with peer(sop_classes=[MRImageStorage]) as lung:
        status, out, _ = run("send", file, "--to", lung.address, "--json", "--association-per-study")
    report = json.loads(out)
    assert (1, 0, 1, str(file)) == (status, report["sent"], report["failed"], report["failures"][0]["path"])


def test_the_command_reports_once_that_the_peer_cannot_be_reached(tmp_path: Path) -> None:
    """The command does not print a line for each file."""
    study(tmp_path)
    with unresponsive_peer(listening=False) as address:
        status, _, err = run("send", tmp_path, "--to", address)
    assert (1, f"stopped; 4 files not sent: {address} cannot be reached: connection refused\n") == (status, err)


@pytest.fixture
def handled_sigint() -> Iterator[None]:
    """Handle SIGINT in this process: if it is ignored, as in a job of a shell in the background, children ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handled_sigint")
def test_the_command_reports_what_was_sent_before_ctrl_c(tmp_path: Path) -> None:
    """SIGINT while the peer has not answered the third C-STORE: two files were sent, and the exit status is 1.

    Verified to fail when `scu.send` does not handle the KeyboardInterrupt: the summary is missing.
    """
    study(tmp_path, instances=5)
    third, ended = threading.Event(), threading.Event()

    def answer(_event: evt.Event) -> int:
        if len(lung.received) == 2:
            third.set()
            assert ended.wait(60)
        return 0

    with peer(answer=answer) as lung:
        program = [sys.executable, "-m", "dicom_adapter", "send", tmp_path, "--to", str(lung.address)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
            assert third.wait(60)
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=60)
        ended.set()
    assert 1 == run.returncode
    assert "stopped; 3 files not sent: interrupted (Ctrl-C)\n" == err
    assert out.startswith(f"2 of 5 files sent to {lung.address}, ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--to", "LUNG@localhost"], "AET@HOST:PORT"),
        (["--to", "LUNG@localhost:104", "--from", "A" * 17], "1 to 16"),
        (["--to", "LUNG@localhost:104", "--association-per-study", "--association-per-instance"], "exclude"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], problem: str, tmp_path: Path) -> None:
    """The mistake is reported before anything is sent."""
    status, _, err = run("send", tmp_path, *arguments)
    assert 2 == status
    assert problem in err


def test_the_echo_command_reports_its_duration() -> None:
    """The command exits with 0 and prints the duration, or with 1 and prints the reason."""
    with peer() as lung:
        status, out, _ = run("echo", "--to", lung.address)
    assert 0 == status
    assert re.fullmatch(rf"{lung.address} answered in \d+ ms\n", out)
    with unresponsive_peer(listening=False) as address:
        assert (1, "", f"{address} cannot be reached: connection refused\n") == run("echo", "--to", address)
