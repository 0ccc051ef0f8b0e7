"""The operations of the REST API, except uploads and downloads. `docs/clara-rest-openapi.yaml` describes them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable

from attrs import frozen

from dicom_adapter import JobPriority
from dicom_adapter_clara_client.emulator import rules
from dicom_adapter_clara_client.emulator.rest_problems import (
    METADATA_NOT_FOUND,
    VALUE_INVALID,
    ProblemAnswer,
    in_body,
)
from dicom_adapter_clara_client.emulator.rest_reply import Reply, job_json, payload_json, pipeline_json, version_json
from dicom_adapter_clara_client.emulator.rest_request import OperationRequest, choice
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraJobState, ClaraJobStatus, JobFilter, PipelineFile
from dicom_adapter_clara_client.wire.codes import ClaraCode

CREATED, ACCEPTED, NO_CONTENT, NOT_MODIFIED = 201, 202, 204, 304


@frozen(kw_only=True)
class Operation:
    """One operation. Records and faults use its name."""

    name: str
    method: str
    path: str  # pattern of Starlette
    act: Callable[[EmulatedPlatform, OperationRequest], Reply]
    has_key: bool = False  # whether it requires an idempotency key


def version(platform: EmulatedPlatform, _request: OperationRequest) -> Reply:
    return Reply(body=version_json(platform.version))


# --- jobs -------------------------------------------------------------------------------------------------------------


def create_job(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    inputs = request.texts("inputPayloads")
    with in_body():
        job = platform.create_job(
            request.text("pipelineId"),
            request.text("name"),
            priority=choice(request.text("priority", "normal"), JobPriority, "priority", VALUE_INVALID),
            metadata=request.metadata(),
            input_payloads=inputs,
        )
    return Reply(status=CREATED, body=job_json(job, inputs), headers={"Location": f"/v1/jobs/{job.job_id}"})


def list_jobs(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    pipelines = (rules.identifier(i, "pipeline", ClaraCode.PIPELINE_ID_MALFORMED) for i in request.all_of("pipelineId"))
    wanted = JobFilter(
        completed_before=request.moment("completedBefore"),
        created_after=request.moment("createdAfter"),
        states=request.choices("state", ClaraJobState),
        statuses=request.choices("status", ClaraJobStatus),
        pipeline_ids=frozenset(pipelines),
    )
    jobs, more = request.page(platform.jobs.list(wanted))
    return Reply(body={"jobs": [job_json(job) for job in jobs], **more})


def get_job(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    body = job_json(platform.jobs.status(request.path_parameters["job"]))
    tag = f'"{hashlib.sha256(json.dumps(body).encode()).hexdigest()[:32]}"'
    known = [given.strip().removeprefix("W/") for given in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Reply(status=NOT_MODIFIED, headers={"ETag": tag})
    return Reply(body=body, headers={"ETag": tag})


def start_job(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    job = platform.jobs.start(request.path_parameters["job"], request.table("variables"))
    return Reply(status=ACCEPTED, body=job_json(job), headers={"Location": f"/v1/jobs/{job.job_id}"})


def cancel_job(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    return Reply(body=job_json(platform.jobs.cancel(request.path_parameters["job"], request.text("reason", ""))))


def read_logs(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    platform.jobs.status(request.path_parameters["job"])
    return Reply(body="")  # emulated jobs do not run the operators (programs) of their pipeline


# --- metadata of jobs -------------------------------------------------------------------------------------------------


def add_metadata(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    job = platform.jobs.add_metadata(request.path_parameters["job"], request.metadata())
    return Reply(body={"metadata": dict(job.metadata)})


class MetadataChanges:
    """Operations that replace or remove metadata under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def put_metadata(self, platform: EmulatedPlatform, request: OperationRequest) -> Reply:
        key, value = request.path_parameters["key"], request.text("value")
        with self._lock:
            job = platform.jobs.status(request.path_parameters["job"])
            rest = rules.without_metadata(job.metadata, [key])
            # Check the new value before the old one is removed.
            rules.with_metadata(rest, [(key, value)], ClaraCode.JOB_METADATA_REFUSED)
            platform.jobs.remove_metadata(job.job_id, [key])
            platform.jobs.add_metadata(job.job_id, {key: value})
        return Reply(status=NO_CONTENT if _has(job, key) else CREATED)

    def remove_metadata(self, platform: EmulatedPlatform, request: OperationRequest) -> Reply:
        with self._lock:
            job = platform.jobs.status(request.path_parameters["job"])
            if not _has(job, request.path_parameters["key"]):
                raise ProblemAnswer(METADATA_NOT_FOUND, "the job has no metadata with this key")
            platform.jobs.remove_metadata(job.job_id, [request.path_parameters["key"]])
        return Reply(status=NO_CONTENT)


def _has(job: ClaraJob, key: str) -> bool:
    return key.lower() in {known.lower() for known in job.metadata}


# --- payloads ---------------------------------------------------------------------------------------------------------


def create_payload(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    payload = platform.payloads.create(request.metadata())
    location = {"Location": f"/v1/payloads/{payload.payload_id}"}
    return Reply(status=CREATED, body=payload_json(payload), headers=location)


def get_payload(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    return Reply(body=payload_json(platform.payloads.details(request.path_parameters["payload"])))


def delete_payload(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    platform.payloads.delete(request.path_parameters["payload"])
    return Reply(status=NO_CONTENT)


def remove_file(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    platform.payloads.remove(request.path_parameters["payload"], request.path_parameters["file"])
    return Reply(status=NO_CONTENT)


# --- pipelines --------------------------------------------------------------------------------------------------------


def create_pipeline(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    files = [PipelineFile(path=f["path"], content=f["content"]) for f in request.objects("files", "path", "content")]
    pipeline = platform.pipelines.create(files, request.metadata())
    location = {"Location": f"/v1/pipelines/{pipeline.pipeline_id}"}
    return Reply(status=CREATED, body=pipeline_json(pipeline), headers=location)


def list_pipelines(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    pipelines, more = request.page(sorted(platform.pipelines.list(), key=lambda pipeline: pipeline.pipeline_id))
    return Reply(body={"pipelines": [pipeline_json(pipeline, with_files=False) for pipeline in pipelines], **more})


def get_pipeline(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    return Reply(body=pipeline_json(platform.pipelines.details(request.path_parameters["pipeline"])))


def remove_pipeline(platform: EmulatedPlatform, request: OperationRequest) -> Reply:
    platform.pipelines.remove(request.path_parameters["pipeline"])
    return Reply(status=NO_CONTENT)


def operations() -> list[Operation]:
    """Return all operations. If two paths overlap, the more specific one comes first."""
    metadata_changes = MetadataChanges()
    job, payload, pipeline = "/v1/jobs/{job}", "/v1/payloads/{payload}", "/v1/pipelines/{pipeline}"
    table = [
        ("Clara.Version", "GET", "/v1/version", version),
        ("Jobs.Create", "POST", "/v1/jobs", create_job),
        ("Jobs.List", "GET", "/v1/jobs", list_jobs),
        ("Jobs.Start", "POST", f"{job}:start", start_job),
        ("Jobs.Cancel", "POST", f"{job}:cancel", cancel_job),
        ("Jobs.Status", "GET", job, get_job),
        ("Jobs.AddMetadata", "POST", f"{job}/metadata", add_metadata),
        ("Jobs.PutMetadata", "PUT", f"{job}/metadata/{{key:path}}", metadata_changes.put_metadata),
        ("Jobs.RemoveMetadata", "DELETE", f"{job}/metadata/{{key:path}}", metadata_changes.remove_metadata),
        ("Jobs.ReadLogs", "GET", f"{job}/operators/{{operator}}/logs", read_logs),
        ("Payloads.Create", "POST", "/v1/payloads", create_payload),
        ("Payloads.Details", "GET", payload, get_payload),
        ("Payloads.Delete", "DELETE", payload, delete_payload),
        ("Payloads.Remove", "DELETE", f"{payload}/files/{{file:path}}", remove_file),
        ("Pipelines.Create", "POST", "/v1/pipelines", create_pipeline),
        ("Pipelines.List", "GET", "/v1/pipelines", list_pipelines),
        ("Pipelines.Details", "GET", pipeline, get_pipeline),
        ("Pipelines.Remove", "DELETE", pipeline, remove_pipeline),
    ]
    keyed = {"Jobs.Create", "Jobs.Start", "Payloads.Create"}
    return [
        Operation(name=name, method=method, path=path, act=act, has_key=name in keyed)
        for name, method, path, act in table
    ]
