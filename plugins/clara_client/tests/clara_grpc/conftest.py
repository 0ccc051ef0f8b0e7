"""Fixtures of the `clara-grpc` tests: submitters, an emulated platform, a hostile server, jobs and uploads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import grpc
import pytest
from attrs import evolve, frozen

from dicom_adapter import InstanceStorageInfo, Job, JobPriority, Retriable, SubmitterContext, Upload
from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind, Faults
from dicom_adapter_clara_client.emulator.grpc_server import EmulatorGrpcServer, serve
from dicom_adapter_clara_client.emulator.record import CallLog
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import RunPlan
from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings
from dicom_adapter_clara_client.grpc_submitter import ClaraGrpcSubmitter

PIPELINE = 32 * "a"
NOW = datetime.now(timezone.utc)
SERVICE = "/nvidia.clara.platform."


@pytest.fixture
def job() -> Job:
    """Return a job that was not created on a platform."""
    return Job(
        job_id=31 * "0" + "1",
        name="LUNG-segment_it-20240501120000",
        ae_title="LUNG",
        pipeline_id=PIPELINE,
        priority=JobPriority.HIGHER,
        submitter="clara",
        instance_count=2,
        metadata={"Source": "LUNG (AE Title Job Processor)", "Instances": "2"},
        created_at=NOW,
        changed_at=NOW,
    )


@pytest.fixture
def created(job: Job) -> Job:
    """Return a job with the ids of a platform."""
    return evolve(job, platform_job_id=32 * "b", platform_payload_id=32 * "c")


@pytest.fixture
def make_upload() -> Callable[..., Upload]:
    """Return a factory of uploads of `data`, or of the file that `opener` opens."""

    def make(
        data: bytes = b"data",
        position: int = 0,
        *,
        opener: Callable[[], BinaryIO] | None = None,
        size: int | None = None,
    ) -> Upload:
        size = len(data) if size is None else size
        instance = InstanceStorageInfo(
            instance_id=41 + position,
            ae_title="LUNG",
            calling_ae_title="CT1",
            peer_address="192.0.2.1",
            association_id="a1",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            sop_instance_uid=f"1.2.3.{position}",
            study_instance_uid="1.2.4",
            series_instance_uid="1.2.5",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            patient_id="SECRET-ID",
            issuer_of_patient_id="",
            received_at=NOW,
            storage_key=f"key-{position}",
            size_bytes=size,
            checksum=0,
        )
        return Upload(instance=instance, position=position, size_bytes=size, open=opener or (lambda: BytesIO(data)))

    return make


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., ClaraGrpcSubmitter]]:
    """Return a factory of open submitters, which are closed after the test."""
    opened: list[ClaraGrpcSubmitter] = []

    def make(endpoint: str, **settings: Any) -> ClaraGrpcSubmitter:
        context = SubmitterContext(name="clara", data_folder=tmp_path / "never-used")
        submitter = ClaraGrpcSubmitter(ClaraGrpcSettings(endpoint=endpoint, **{"deadline": 20.0, **settings}), context)
        submitter.open()
        opened.append(submitter)
        return submitter

    yield make
    for submitter in opened:
        submitter.close()


@frozen
class Site:
    """A running emulator."""

    platform: EmulatedPlatform
    faults: Faults
    log: CallLog
    server: EmulatorGrpcServer

    def fail(self, call: str, kind: CallFaultKind, **more: Any) -> None:
        self.faults.add(CallFault(call=call, kind=kind, **more))

    def calls(self, prefix: str = "") -> list[str]:
        return [record.call for record in self.log.calls() if record.call.startswith(prefix)]


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    """Return a factory of running emulators. Their jobs run until they are finished or cancelled."""
    servers: list[EmulatorGrpcServer] = []

    def make(folder: Path | None = None, **serving: Any) -> Site:
        platform, faults, log = (
            EmulatedPlatform(folder=folder, pipelines=[PIPELINE], run=RunPlan(seconds=None)),
            Faults(),
            CallLog(),
        )
        server = serve(platform, faults=faults, log=log, **serving)
        servers.append(server)
        return Site(platform, faults, log, server)

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def submitter(site: Site, connect: Callable[..., ClaraGrpcSubmitter]) -> ClaraGrpcSubmitter:
    """Return a submitter that is connected to `site`."""
    return connect(site.server.address)


@pytest.fixture
def submit() -> Callable[..., Job]:
    """Return a function that submits a job as the core does: after a retriable error, a step is repeated."""

    def step(job: Job, act: Callable[[Job], Any]) -> Any:
        for repeated in (False, True, True, True):
            try:
                return act(evolve(job, repeated=repeated))
            except Retriable:
                continue
        raise AssertionError("the step failed four times")

    def submit_job(submitter: ClaraGrpcSubmitter, job: Job, uploads: Iterable[Upload] = ()) -> Job:
        known = step(job, submitter.create_job)
        job = evolve(job, platform_job_id=known.job_id, platform_payload_id=known.payload_id)
        step(job, lambda job: submitter.add_metadata(job, job.metadata))
        for upload in uploads:
            step(job, lambda job, upload=upload: submitter.upload(job, upload))
        step(job, submitter.start)
        return job

    return submit_job


class Hostile(grpc.GenericRpcHandler):
    """A server that returns the given response to each call; `answers` has names such as `Jobs.Create`."""

    def __init__(self, answers: dict[str, Any], stopping: Event) -> None:
        self._answers = answers
        self._stopping = stopping
        self.metadata: list[dict[str, Any]] = []

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method.removeprefix(SERVICE).replace("/", ".")
        self.metadata.append(dict(handler_call_details.invocation_metadata))
        answer = self._answers.get(name)
        if answer is None:
            return None

        def behave(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            if answer == "silence":
                self._stopping.wait()
                return
            messages = answer(requests, context) if callable(answer) else [next(requests) and answer]
            for message in messages:
                yield message if isinstance(message, bytes) else message.SerializeToString()

        return grpc.stream_stream_rpc_method_handler(behave)


@pytest.fixture
def hostile(connect: Callable[..., ClaraGrpcSubmitter]) -> Iterator[Callable[..., ClaraGrpcSubmitter]]:
    """Return a factory of submitters that are connected to a server with these responses."""
    stopping = Event()
    servers: list[grpc.Server] = []

    def make(answers: dict[str, Any], **settings: Any) -> ClaraGrpcSubmitter:
        server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers([Hostile(answers, stopping)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return connect(f"127.0.0.1:{port}", **settings)

    yield make
    stopping.set()
    for server in servers:
        server.stop(None).wait()
