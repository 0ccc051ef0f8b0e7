"""Connections of the `clara-grpc` submitter: reconnects, deadlines, call metadata, TLS."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import trustme
from attrs import evolve

from dicom_adapter import ConfigurationError, Job, Retriable, Secret
from dicom_adapter_clara_client.emulator.faults import CallFaultKind
from dicom_adapter_clara_client.emulator.grpc_server import EmulatorTls, serve
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.grpc_settings import ClaraTls
from dicom_adapter_clara_client.wire.jobs_pb2 import JobsListResponse

Make = Callable[..., Any]
LONG_S = 15.0  # far longer than any call in these tests, shorter than the time limit of a test


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_opening_does_not_wait_for_the_platform(connect: Make, job: Job) -> None:
    """The platform may be down for hours; a call then fails immediately."""
    submitter = connect(f"127.0.0.1:{free_port()}")
    began = monotonic()
    with pytest.raises(Retriable, match=r"create: the call ended with UNAVAILABLE: .*[Cc]onnect"):
        submitter.create_job(job)
    assert monotonic() - began < LONG_S


def test_a_restarted_platform_is_reconnected(make_site: Make, connect: Make, job: Job) -> None:
    """The next call after the restart reconnects."""
    site = make_site()
    submitter = connect(site.server.address)
    submitter.create_job(job)
    site.server.stop()
    with pytest.raises(Retriable, match="UNAVAILABLE"):
        submitter.create_job(job)
    again = serve(EmulatedPlatform(pipelines="any"), site.server.address)
    try:
        until = monotonic() + 60
        while monotonic() < until:
            try:
                submitter.create_job(job)
                break
            except Retriable:
                continue
        else:
            pytest.fail("the submitter did not reconnect")
    finally:
        again.stop()


@pytest.mark.parametrize("endpoint", ["no-such-host.invalid:50051", "unix:50051"])
def test_an_unknown_host_is_retriable(endpoint: str, connect: Make, job: Job) -> None:
    """A name that cannot be resolved does not fault a job, and is never interpreted as a socket file."""
    with pytest.raises(Retriable, match=r"create: the call ended with (UNAVAILABLE|DEADLINE_EXCEEDED)"):
        connect(endpoint, deadline=5.0).create_job(job)


def test_a_server_without_grpc_is_retriable(connect: Make, job: Job) -> None:
    """A call to a server that does not speak gRPC ends within its deadline."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak_http() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(1000)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=speak_http)
        thread.start()
        try:
            with pytest.raises(Retriable, match=r"create: the call ended with (UNAVAILABLE|DEADLINE_EXCEEDED)"):
                connect(f"127.0.0.1:{server.getsockname()[1]}", deadline=3.0).create_job(job)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "call", ["Jobs.Create", "Jobs.List", "Jobs.AddMetadata", "Jobs.Start", "Jobs.Status", "Jobs.Cancel"]
)
def test_every_call_has_a_deadline(call: str, hostile: Make, created: Job) -> None:
    """A call to a platform that does not respond ends with its deadline."""
    submitter = hostile({call: "silence"}, deadline=0.3)
    steps: dict[str, Callable[[], object]] = {
        "Jobs.Create": lambda: submitter.create_job(created),
        "Jobs.List": lambda: submitter.create_job(evolve(created, repeated=True)),
        "Jobs.AddMetadata": lambda: submitter.add_metadata(created, created.metadata),
        "Jobs.Start": lambda: submitter.start(created),
        "Jobs.Status": lambda: submitter.status(created),
        "Jobs.Cancel": lambda: submitter.cancel(created),
    }
    began = monotonic()
    with pytest.raises(Retriable, match="the call ended with DEADLINE_EXCEEDED"):
        steps[call]()
    assert 0.25 < monotonic() - began < LONG_S


@pytest.mark.parametrize("size", [4, 64 << 20])
def test_an_upload_has_its_own_deadline(size: int, hostile: Make, created: Job, make_upload: Make) -> None:
    """The platform does not respond to a small file, or does not read a large one."""
    submitter = hostile({"Payloads.Upload": "silence"}, deadline=60.0, upload_deadline=0.3)
    began = monotonic()
    with pytest.raises(Retriable, match="upload of instance 41: the call ended with DEADLINE_EXCEEDED"):
        submitter.upload(created, make_upload(bytes(size)))
    assert 0.25 < monotonic() - began < LONG_S


def test_reading_an_endless_list_ends(hostile: Make, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading ends with the deadline of the call, or at the maximum length of the list."""

    def endless(requests: Any, context: Any) -> Any:
        while context.is_active():
            yield JobsListResponse()

    repeated = evolve(job, repeated=True)
    with pytest.raises(Retriable, match="DEADLINE_EXCEEDED"):
        hostile({"Jobs.List": endless}, deadline=0.5).create_job(repeated)
    monkeypatch.setattr("dicom_adapter_clara_client.grpc_search.MAX_LISTED", 10)
    with pytest.raises(Retriable, match="create: the platform lists more than 10 jobs of one pipeline"):
        hostile({"Jobs.List": endless}).create_job(repeated)


def test_closing_cancels_running_calls(site: Any, connect: Make, job: Job, make_upload: Make) -> None:
    """Running calls end, and later calls are refused."""
    submitter = connect(site.server.address)
    known = submitter.create_job(job)
    job = evolve(job, platform_job_id=known.job_id, platform_payload_id=known.payload_id)
    reached = threading.Barrier(3)

    class Waiting:
        """A file whose second read waits until all uploads have begun."""

        def __init__(self) -> None:
            self._reads = 0

        def __enter__(self) -> Waiting:
            return self

        def __exit__(self, *failure: object) -> None:
            pass

        def read(self, size: int) -> bytes:
            self._reads += 1
            if self._reads == 2:
                reached.wait(LONG_S)
            return bytes(1024)

    with ThreadPoolExecutor(2) as threads:
        uploads = [make_upload(position=place, size=1 << 40, opener=Waiting) for place in range(2)]
        futures = [threads.submit(submitter.upload, job, upload) for upload in uploads]
        reached.wait(LONG_S)
        submitter.close()
        for future in futures:
            with pytest.raises(Retriable, match="the call ended with CANCELLED"):
                future.result(LONG_S)
    with pytest.raises(Retriable, match="status: the submitter is closed"):
        submitter.status(job)
    with pytest.raises(Retriable, match="upload of instance 41: the submitter is closed"):
        submitter.upload(job, make_upload())
    with pytest.raises(Retriable, match="create: the submitter is closed"):
        submitter.create_job(evolve(job, repeated=True))


def test_close_can_be_called_twice_or_without_open(connect: Make) -> None:
    """`close` is idempotent."""
    submitter = connect("127.0.0.1:1")
    submitter.close()
    submitter.close()
    type(submitter)(submitter.settings, submitter.context).close()


# --- metadata of calls ----------------------------------------------------------------------------------------------


def test_every_call_has_the_configured_metadata(hostile: Make, created: Job, make_upload: Make) -> None:
    """Unary calls, uploads and lists have the metadata."""
    seen: list[dict[str, Any]] = []

    def record(requests: Any, context: Any) -> list[bytes]:
        seen.append(dict(context.invocation_metadata()))
        return []

    calls = ["Jobs.Create", "Jobs.List", "Jobs.Status", "Payloads.Upload"]
    submitter = hostile(
        dict.fromkeys(calls, record), metadata={"authorization": Secret("Bearer t0ken"), "x-site": "north"}
    )
    for step in (
        lambda: submitter.create_job(created),
        lambda: submitter.status(created),
        lambda: submitter.upload(created, make_upload()),
    ):
        with pytest.raises(Retriable):
            step()
    with pytest.raises(Retriable):
        submitter.create_job(evolve(created, repeated=True))
    assert 5 == len(seen)  # a repeated create makes two calls: List and Create
    assert {("Bearer t0ken", "north")} == {(metadata["authorization"], metadata["x-site"]) for metadata in seen}
    assert all(metadata["user-agent"].startswith("dicom-adapter-clara-client") for metadata in seen)


def test_a_token_in_the_platforms_text_is_removed(site: Any, connect: Make, job: Job) -> None:
    """Errors appear in logs and in the ledger."""
    submitter = connect(site.server.address, metadata={"authorization": Secret("t0ken-t0ken")})
    site.fail("Jobs.Create", CallFaultKind.STATUS, status="UNAVAILABLE", messages=("bad t0ken-t0ken",))
    with pytest.raises(Retriable, match=r"UNAVAILABLE: bad …$"):
        submitter.create_job(job)
    assert "t0ken" not in repr(submitter.settings)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


def emulator_tls(certificate: trustme.LeafCert, client_authority: trustme.CA | None = None) -> EmulatorTls:
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    clients = client_authority.cert_pem.bytes() if client_authority else None
    return EmulatorTls(certificate=chain, key=certificate.private_key_pem.bytes(), client_authority=clients)


def test_a_platform_with_a_certificate_of_the_authority_is_trusted(
    tmp_path: Path, authority: trustme.CA, make_site: Make, connect: Make, submit: Make, job: Job, make_upload: Make
) -> None:
    """The certificate must be for the endpoint's host."""
    site = make_site(tls=emulator_tls(authority.issue_cert("127.0.0.1")))
    submitter = connect(site.server.address, tls=ClaraTls(ca_file=tmp_path / "ca.pem"))
    submit(submitter, job, [make_upload()])
    assert 1 == len(site.platform.jobs.list())


def test_the_certificates_of_files_and_platform_are_reported(
    tmp_path: Path, authority: trustme.CA, make_site: Make, connect: Make
) -> None:
    """Operators see in time when they expire. Without TLS there are none."""
    expires_at = datetime(2049, 1, 2, tzinfo=timezone.utc)
    site = make_site(tls=emulator_tls(authority.issue_cert("127.0.0.1", not_after=expires_at)))
    submitter = connect(site.server.address, tls=ClaraTls(ca_file=tmp_path / "ca.pem"))
    from_file, from_platform = submitter.certificates()
    assert (f"authority in ca-file {tmp_path / 'ca.pem'}", True) == (from_file.subject, from_file.is_authority)
    assert (f"certificate of {site.server.address}", expires_at) == (from_platform.subject, from_platform.expires_at)
    assert [] == list(connect(make_site().server.address).certificates())


def test_a_certificate_with_another_name_or_authority_is_refused(
    tmp_path: Path, authority: trustme.CA, make_site: Make, connect: Make, job: Job
) -> None:
    """No request is sent; `server-name` sets the expected name."""
    site = make_site(tls=emulator_tls(authority.issue_cert("clara.example")))
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for tls in (ClaraTls(ca_file=ca_file), ClaraTls(ca_file=tmp_path / "other.pem", server_name="clara.example"), True):
        with pytest.raises(Retriable, match="create: the call ended with UNAVAILABLE"):
            connect(site.server.address, tls=tls).create_job(job)
    connect(site.server.address, tls=ClaraTls(ca_file=ca_file, server_name="clara.example")).create_job(job)
    assert 1 == len(site.calls())


@pytest.mark.parametrize("together", [False, True])
def test_a_client_certificate_is_sent(
    together: bool, tmp_path: Path, authority: trustme.CA, make_site: Make, connect: Make, job: Job
) -> None:
    """The key is in a separate file or in the certificate's file. Clients without a certificate are refused."""
    site = make_site(tls=emulator_tls(authority.issue_cert("127.0.0.1"), authority))
    mine = authority.issue_cert("adapter.example")
    ca_file, both, certificate, key = (tmp_path / name for name in ("ca.pem", "both.pem", "cert.pem", "key.pem"))
    mine.private_key_and_cert_chain_pem.write_to_path(both)
    mine.cert_chain_pems[0].write_to_path(certificate)
    mine.private_key_pem.write_to_path(key)
    with pytest.raises(Retriable, match="UNAVAILABLE"):
        connect(site.server.address, tls=ClaraTls(ca_file=ca_file)).create_job(job)
    client = {"client_certificate": both} if together else {"client_certificate": certificate, "client_key": key}
    connect(site.server.address, tls=ClaraTls(ca_file=ca_file, **client)).create_job(job)
    assert 1 == len(site.platform.jobs.list())


@pytest.mark.parametrize("files", [{"ca_file"}, {"client_certificate"}, {"client_certificate", "client_key"}])
@pytest.mark.parametrize(
    "content", [None, b"", b"not PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_open_raises_for_unusable_certificate_files(
    content: bytes | None, files: set[str], tmp_path: Path, connect: Make
) -> None:
    """gRPC would not report such files: each call would fail without a reason."""
    wrong = tmp_path / "wrong.pem"
    if content is not None:
        wrong.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"tls: one of the files cannot be used .*wrong\.pem"):
        connect("127.0.0.1:1", tls=ClaraTls(**dict.fromkeys(files, wrong)))
