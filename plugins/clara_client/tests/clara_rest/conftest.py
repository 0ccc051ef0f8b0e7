"""Fixtures of the `clara-rest` tests: submitters, an emulated platform, a hostile server, jobs and uploads."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter import InstanceStorageInfo, Job, JobPriority, SubmitterContext, Upload
from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind, Faults
from dicom_adapter_clara_client.emulator.record import CallLog
from dicom_adapter_clara_client.emulator.rest_server import serve
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import RunPlan
from dicom_adapter_clara_client.rest_settings import ClaraRestSettings
from dicom_adapter_clara_client.rest_submitter import ClaraRestSubmitter

PIPELINE = 32 * "a"
NOW = datetime.now(timezone.utc)
PATIENT = "SECRET^PATIENT"
MAX_S = 30.0  # maximum duration of a call on a busy machine


def a_job(**more: Any) -> Job:
    values: dict[str, Any] = {
        "job_id": 31 * "0" + "1",
        "name": "LUNG-nodules-20260901120000",
        "ae_title": "LUNG",
        "pipeline_id": PIPELINE,
        "priority": JobPriority.HIGHER,
        "submitter": "clara",
        "instance_count": 2,
        "metadata": {"Source": "LUNG", "Instances": "2"},
        "created_at": NOW,
        "changed_at": NOW,
    }
    return Job(**{**values, **more})


def an_upload(position: int, data: bytes, **more: Any) -> Upload:
    instance = InstanceStorageInfo(
        instance_id=position + 100,
        ae_title="LUNG",
        calling_ae_title="CT1",
        peer_address="127.0.0.1",
        association_id="a",
        sop_class_uid="1.2",
        sop_instance_uid=f"1.2.{position}",
        study_instance_uid="1.2.1",
        series_instance_uid="1.2.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_id=PATIENT,
        issuer_of_patient_id="",
        received_at=NOW,
        storage_key="",
        size_bytes=len(data),
        checksum=0,
    )
    values: dict[str, Any] = {"size_bytes": len(data), "open": lambda: BytesIO(data)}
    return Upload(instance=instance, position=position, **{**values, **more})


@pytest.fixture
def job() -> Job:
    """Return a job that was not created on a platform."""
    return a_job()


@pytest.fixture
def known() -> Job:
    """Return a job with the ids of a platform."""
    return a_job(job_id=32 * "0", platform_job_id=32 * "1", platform_payload_id=32 * "2")


@pytest.fixture
def make_upload() -> Callable[..., Upload]:
    """Return a factory of uploads, from position, data and other attributes."""
    return an_upload


class Site:
    """An emulated platform, and a submitter for it."""

    def __init__(self, tmp_path: Path, token: str | None = None, folder: Path | None = None) -> None:
        self.now = NOW
        run = RunPlan(seconds=None)
        self.platform = EmulatedPlatform(folder=folder, pipelines=[PIPELINE], run=run, clock=lambda: self.now)
        self.faults = Faults()
        self.log = CallLog()
        self.server = serve(self.platform, faults=self.faults, log=self.log, token=token, clock=lambda: self.now)
        self._tmp_path = tmp_path
        self._submitters: list[ClaraRestSubmitter] = []
        self.submitter = self.connect()

    def connect(self, **settings: Any) -> ClaraRestSubmitter:
        context = SubmitterContext(name="clara", data_folder=self._tmp_path / "never-used")
        table = {"endpoint": self.server.url, "timeout": 10.0, **settings}
        submitter = ClaraRestSubmitter(ClaraRestSettings(**table), context)
        submitter.open()
        self._submitters.append(submitter)
        return submitter

    def close(self) -> None:
        for submitter in self._submitters:
            submitter.close()
        self.server.stop()

    def fail(self, call: str, kind: CallFaultKind, **more: Any) -> None:
        self.faults.add(CallFault(call=call, kind=kind, protocol="rest", **more))

    def created(self, job: Job | None = None) -> Job:
        """Create a job on the platform and return it with its ids."""
        job = job or a_job()
        known = self.submitter.create_job(job)
        return evolve(job, platform_job_id=known.job_id, platform_payload_id=known.payload_id)

    def calls(self, prefix: str = "") -> list[str]:
        return [record.call for record in self.log.calls() if record.call.startswith(prefix)]

    def files(self, job: Job) -> dict[str, bytes]:
        contents = {}
        for file in self.platform.payloads.details(job.platform_payload_id).files:
            with self.platform.payloads.download(job.platform_payload_id, file.name)[1] as source:
                contents[file.name] = source.read()
        return contents


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(tmp_path, **options))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


class Hostile:
    """A server that reads requests one after the other, and runs the next script for each request."""

    def __init__(
        self, *scripts: bytes | Callable[[socket.socket], None], context: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._scripts = list(scripts)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._scripts.clear()
        for connection in [self._listener, *self._open]:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed by the peer
            connection.close()
        self._thread.join(MAX_S)
        for connection in self._open:  # also the one whose TLS handshake has just ended
            connection.close()

    def _accept(self) -> None:
        while self._scripts:
            try:
                peer, _ = self._listener.accept()
                self._open.append(peer)
                if self._context is not None:
                    peer = self._context.wrap_socket(peer, server_side=True)
                    self._open[-1] = peer
                self.connections += 1
                self._serve(peer)
            except OSError:
                continue

    def _serve(self, peer: socket.socket) -> None:
        while self._scripts and self._read(peer):
            script = self._scripts.pop(0)
            if callable(script):
                script(peer)
            else:
                peer.sendall(script)
        if not self._scripts:
            peer.shutdown(socket.SHUT_WR)

    def _read(self, peer: socket.socket) -> bool:
        """Read one request with its body. Return False at the end of the connection."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = peer.recv(65536)
            if not piece:
                return False
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < int(lengths[0] if lengths else 0):
            body += peer.recv(65536)
        self.requests.append(head)
        return True


class TestedSubmitter(ClaraRestSubmitter):
    """A submitter with a reference to its server."""

    hostile: Hostile


@pytest.fixture
def against(tmp_path: Path) -> Iterator[Callable[..., TestedSubmitter]]:
    """Return a factory of submitters that are connected to a server with these scripts."""
    opened: list[Any] = []

    def connect(*scripts: Any, context: ssl.SSLContext | None = None, **settings: Any) -> TestedSubmitter:
        server = Hostile(*scripts, context=context)
        scheme = "http" if context is None else "https"
        values = {"endpoint": f"{scheme}://127.0.0.1:{server.port}", "timeout": MAX_S, **settings}
        submitter = TestedSubmitter(ClaraRestSettings(**values), SubmitterContext(name="clara", data_folder=tmp_path))
        submitter.open()
        opened.extend([submitter, server])
        submitter.hostile = server
        return submitter

    yield connect
    for each in opened:
        each.close()
