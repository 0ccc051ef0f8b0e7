"""`python upload_plain.py grpc|rest ENDPOINT PARALLEL FILES`: the plain loop to which the adapter is compared.

The loop uploads the files listed in FILES, PARALLEL at a time, with the generated stub or httpx, in pieces of the same
size as the submitters, without verification, ledger or retries. The program prints seconds and CPU seconds as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx

from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings
from dicom_adapter_clara_client.rest_request import PIECE_BYTES
from dicom_adapter_clara_client.wire.common_pb2 import Identifier
from dicom_adapter_clara_client.wire.jobs_pb2 import JOB_PRIORITY_NORMAL, JobsCreateRequest
from dicom_adapter_clara_client.wire.jobs_pb2_grpc import JobsStub
from dicom_adapter_clara_client.wire.payloads_pb2 import PayloadFileDetails, PayloadsUploadRequest
from dicom_adapter_clara_client.wire.payloads_pb2_grpc import PayloadsStub

PIPELINE = "8abf244aff7647989d4f6b3987a85759"
UPLOAD_S = 600.0  # time limit of one call

Upload = Callable[[Path], None]


def grpc_upload(endpoint: str) -> Upload:
    """Create a job on the platform. Returns the function that uploads one file to it."""
    chunk_bytes = int(ClaraGrpcSettings(endpoint=endpoint).chunk_size)
    channel = grpc.insecure_channel(endpoint)
    request = JobsCreateRequest(pipeline_id=Identifier(value=PIPELINE), name="plain", priority=JOB_PRIORITY_NORMAL)
    payload_id = JobsStub(channel).Create(request, timeout=UPLOAD_S).payload_id
    stub = PayloadsStub(channel)

    def requests(path: Path) -> Iterator[PayloadsUploadRequest]:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(chunk_bytes):
                details = PayloadFileDetails(size=len(chunk), name=f"dcm/{path.name}")
                yield PayloadsUploadRequest(payload_id=payload_id, details=details, data=chunk)

    def upload(path: Path) -> None:
        stub.Upload(requests(path), timeout=UPLOAD_S)

    return upload


def rest_upload(endpoint: str) -> Upload:
    """Create a job on the platform. Returns the function that uploads one file to it."""
    client = httpx.Client(base_url=endpoint, trust_env=False, timeout=UPLOAD_S)
    body = {"pipelineId": PIPELINE, "name": "plain", "priority": "normal", "metadata": {}}
    created = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": '"plain"'}).raise_for_status().json()
    folder = f"/v1/payloads/{created['payloadId']}/files/input/dcm"

    def pieces(path: Path) -> Iterator[bytes]:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def upload(path: Path) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        client.put(f"{folder}/{path.name}", content=pieces(path), headers=headers).raise_for_status()

    return upload


def main(protocol: str, endpoint: str, parallel: str, files: str) -> None:
    """Upload all files once."""
    paths = [Path(line) for line in Path(files).read_text().splitlines()]
    upload = {"grpc": grpc_upload, "rest": rest_upload}[protocol](endpoint)
    with ThreadPoolExecutor(int(parallel)) as executor:
        used, began = _cpu_seconds(), time.monotonic()
        for _done in executor.map(upload, paths):
            pass
        seconds = time.monotonic() - began
        figures = {"seconds": seconds, "cpu_seconds": _cpu_seconds() - used}
    sys.stdout.write(json.dumps(figures) + "\n")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
