"""Third-party senders: DCMTK, Orthanc and pynetdicom, with and without TLS, with small and large PDUs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from dicom_adapter.dicom import synthetic
from dicom_adapter.net.tls import client_context
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, Run, wait_until_submitted, write_study
from support.certificates import Pki

SECONDS = 60  # time limit of each wait
LUNG = """
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"
"""
PDU_SIZES = [4096, 16384, 131072]  # values that DCMTK's clients accept, from the minimum to the maximum
SENDERS = 24  # number of runs of dcmsend, each with one association


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


@frozen
class Keys:
    """The files that a sender needs for TLS with a client certificate."""

    authority: Path
    certificate: Path
    key: Path


@pytest.fixture
def keys(pki: Pki) -> Keys:
    certificate, key = pki.issue("sender", "sender.example")
    return Keys(pki.authority, certificate, key)


def tls_lines(pki: Pki, clients: str = "required") -> str:
    certificate, key = pki.adapter()
    return f"""
[dicom.tls]
certificate = "{certificate}"
key = "{key}"
client-ca = "{pki.authority}"
client-certificates = "{clients}"
profile = "bcp195-non-downgrading"
"""


def assert_received(service: LaunchedService, platform: PlatformFolder, sent: list[Path]) -> None:
    """Check that each file reached the platform once, with the same elements and pixels."""
    wait_until_submitted(service, len(sent))
    received = {
        entry["sopInstanceUid"]: file
        for job in platform.jobs
        for entry, file in zip(job["instances"], platform.files(job), strict=True)
    }
    expected = {str(dcmread(path).SOPInstanceUID): dcmread(path) for path in sent}
    assert expected.keys() == received.keys()
    for uid, data_set in expected.items():
        assert data_set == dcmread(received[uid])


def write_large_study(folder: Path) -> list[Path]:
    """Write instances that are larger than any PDU."""
    folder.mkdir()
    paths = [folder / "1.dcm", folder / "2.dcm"]
    for path, data_set in zip(paths, synthetic.make_study(instances=2, rows=300, columns=300), strict=True):
        synthetic.write(data_set, path)
    return paths


# --- DCMTK ------------------------------------------------------------------------------------------------------------


@pytest.mark.dcmtk
@pytest.mark.parametrize("size", PDU_SIZES)
def test_dcmtk_sends_in_pdus_of_every_size(
    launch_service: LaunchService, platform: PlatformFolder, dcmtk: Run, tmp_path: Path, size: int
) -> None:
    """Both sides declare their maximum PDU size."""
    service = launch_service(f"[dicom]\nmax-pdu = {size}\n" + STORAGE + LUNG)
    study, more = write_large_study(tmp_path / "study"), write_large_study(tmp_path / "more")
    dcmtk("echoscu", "-aec", "LUNG", "-pdu", size, "127.0.0.1", service.port())
    dcmtk("storescu", "-aec", "LUNG", "-pdu", size, "127.0.0.1", service.port(), *study)
    dcmtk("dcmsend", "-aec", "LUNG", "--max-send-pdu", size, "127.0.0.1", service.port(), *more)
    assert_received(service, platform, study + more)
    assert 0 == service.stop()


@pytest.mark.dcmtk
def test_many_concurrent_associations_of_dcmsend_succeed(
    launch_service: LaunchService, platform: PlatformFolder, dcmtk: Run, tmp_path: Path
) -> None:
    """Up to eight senders are active at the same time. The service has two receivers, which share the connections.

    The maximum number of associations is divided between the receivers: each can serve all senders.
    """
    service = launch_service(f"[dicom]\nreceivers = 2\nmax-associations = {2 * SENDERS}\n" + STORAGE + LUNG)
    port = service.port()
    studies = [write_study(tmp_path / str(number), patient_id=f"P-{number}") for number in range(SENDERS)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda study: dcmtk("dcmsend", "-aec", "LUNG", "127.0.0.1", port, *study), studies))
    assert SENDERS == len(service.logged("association_accepted"))
    assert_received(service, platform, [path for study in studies for path in study])
    assert 0 == service.stop()


@pytest.mark.dcmtk
def test_dcmtk_sends_over_tls(
    launch_service: LaunchService, platform: PlatformFolder, dcmtk: Run, pki: Pki, keys: Keys, tmp_path: Path
) -> None:
    """The client certificate is accepted, in each profile of BCP 195 that DCMTK has."""
    service = launch_service(STORAGE + tls_lines(pki) + LUNG)
    study = write_study(tmp_path / "study", instances=3)
    encrypted = ("+tls", keys.key, keys.certificate, "+cf", keys.authority, "-aec", "LUNG", "127.0.0.1", service.port())
    for profile in ("+px", "+py", "+pz"):  # BCP 195, non-downgrading BCP 195, extended BCP 195
        dcmtk("echoscu", profile, *encrypted)
    dcmtk("storescu", *encrypted, *study)
    assert_received(service, platform, study)
    assert "sender.example" == service.wait_for("association_accepted", times=4)["certificate"]
    assert 0 == service.stop()


@pytest.mark.dcmtk
@pytest.mark.parametrize("clients", ["required", "optional"])
def test_dcmtk_without_a_certificate_is_accepted_only_if_it_is_not_required(
    launch_service: LaunchService, dcmtk: Run, pki: Pki, keys: Keys, clients: str
) -> None:
    """Anonymous TLS depends on `client-certificates`. A connection without TLS is never accepted."""
    service = launch_service(STORAGE + tls_lines(pki, clients) + LUNG)
    peer = ("-aec", "LUNG", "127.0.0.1", service.port())
    anonymous = dcmtk("echoscu", "+tla", "+cf", keys.authority, *peer, check=False)
    assert (clients == "optional") is (anonymous.returncode == 0)
    without_tls = dcmtk(
        "echoscu", "-ta", 10, *peer, check=False
    )  # -ta: seconds to wait for an answer, which never comes
    assert 0 != without_tls.returncode
    assert 0 == service.stop()


# --- Orthanc ----------------------------------------------------------------------------------------------------------


class Orthanc:
    """An Orthanc process with the adapter as its modality `adapter`."""

    def __init__(self, program: str, folder: Path, adapter_port: int, keys: Keys | None) -> None:
        folder.mkdir()
        self._port = free_port()
        settings: dict[str, Any] = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self._port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "DicomAet": "ORTHANC",
            "Plugins": [],
            "DicomModalities": {
                "adapter": {"AET": "LUNG", "Host": "127.0.0.1", "Port": adapter_port, "UseDicomTls": keys is not None}
            },
        }
        if keys is not None:
            settings |= {
                "DicomTlsCertificate": str(keys.certificate),
                "DicomTlsPrivateKey": str(keys.key),
                "DicomTlsTrustedCertificates": str(keys.authority),
            }
        configuration = folder / "orthanc.json"
        configuration.write_text(json.dumps(settings), encoding="utf-8")
        self._log = (folder / "orthanc.log").open("wb")
        self._process = subprocess.Popen([program, configuration], stdout=self._log, stderr=subprocess.STDOUT)

    def call(self, path: str, body: bytes | None = None) -> Any:
        """Send a GET, or a POST if there is a body, and return the decoded JSON of the response."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data=body)
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.loads(response.read())

    def wait(self) -> None:
        """Wait until Orthanc answers."""
        pause = threading.Event()
        for _try in range(SECONDS * 5):
            try:
                self.call("/system")
            except urllib.error.URLError:
                assert self._process.poll() is None, "Orthanc has ended"
                pause.wait(0.2)
            else:
                return
        raise AssertionError("Orthanc does not answer")

    def send(self, paths: list[Path]) -> Any:
        """Upload instances to Orthanc, and make it send them to the adapter."""
        stored = [self.call("/instances", path.read_bytes())["ID"] for path in paths]
        return self.call("/modalities/adapter/store", json.dumps(stored).encode())

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(SECONDS)
        self._log.close()


def free_port() -> int:
    """Return a free port, because Orthanc cannot choose a port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


StartOrthanc = Callable[..., Orthanc]


@pytest.fixture
def start_orthanc(tmp_path: Path) -> Iterator[StartOrthanc]:
    """Return a function that starts Orthanc. Skip the test if Orthanc is not installed."""
    program = shutil.which("Orthanc", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        if "orthanc" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail("Orthanc is not installed, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
        pytest.skip("Orthanc is not installed")
    started: list[Orthanc] = []

    def start(adapter_port: int, keys: Keys | None = None) -> Orthanc:
        started.append(Orthanc(program, tmp_path / "orthanc", adapter_port, keys))
        started[-1].wait()
        return started[-1]

    yield start
    for orthanc in started:
        orthanc.stop()


@pytest.mark.orthanc
@pytest.mark.parametrize("with_tls", [False, True])
def test_orthanc_sends_with_and_without_tls(
    launch_service: LaunchService,
    platform: PlatformFolder,
    start_orthanc: StartOrthanc,
    pki: Pki,
    keys: Keys,
    tmp_path: Path,
    with_tls: bool,
) -> None:
    """Instances that were uploaded to Orthanc over REST arrive unchanged."""
    service = launch_service(STORAGE + (tls_lines(pki) if with_tls else "") + LUNG)
    orthanc = start_orthanc(service.port(), keys if with_tls else None)
    study = write_study(tmp_path / "study", instances=3)
    summary = orthanc.send(study)
    assert (3, 0) == (summary["InstancesCount"], summary["FailedInstancesCount"])
    assert_received(service, platform, study)
    assert 0 == service.stop()


# --- pynetdicom -------------------------------------------------------------------------------------------------------


def test_pynetdicom_sends_over_tls(
    launch_service: LaunchService, platform: PlatformFolder, pki: Pki, keys: Keys, tmp_path: Path
) -> None:
    """The sender opens several associations, one after the other, with a client certificate."""
    service = launch_service(STORAGE + tls_lines(pki) + LUNG)
    study = write_study(tmp_path / "study", instances=4)
    context = client_context(keys.authority, keys.certificate, keys.key)
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    for path in study:
        association = entity.associate(
            "127.0.0.1",
            service.port(),
            ae_title="LUNG",
            tls_args=(context, "127.0.0.1"),
            max_pdu=0,  # no limit
        )
        assert 0 == association.send_c_store(dcmread(path)).Status
        association.release()
    assert_received(service, platform, study)
    assert 0 == service.stop()
