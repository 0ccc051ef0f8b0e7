"""REST responses, and conversion of the platform's values to JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraPayload, ClaraPipeline, PlatformVersion


@frozen(kw_only=True)
class Reply:
    """A response with a small body."""

    status: int = 200
    body: Mapping[str, Any] | str | None = field(default=None, repr=False)  # a mapping is sent as JSON
    headers: Mapping[str, str] = field(factory=dict)


def job_json(job: ClaraJob, inputs: Iterable[str] | None = None) -> dict[str, Any]:
    """Return a job. `inputs`: its input payloads, in the response to its creation only."""
    known_inputs = {} if inputs is None else {"inputPayloads": list(inputs)}
    return {
        "jobId": job.job_id,
        "payloadId": job.payload_id,
        "pipelineId": job.pipeline_id,
        "name": job.name,
        "priority": job.priority.value,
        "state": job.state.value,
        "status": job.status.value,
        **known_inputs,
        "metadata": dict(job.metadata),
        "messages": list(job.messages),
        "createdAt": _time(job.created),
        "startedAt": _time(job.started),
        "stoppedAt": _time(job.stopped),
    }


def payload_json(payload: ClaraPayload) -> dict[str, Any]:
    """Return a payload with its files."""
    return {
        "payloadId": payload.payload_id,
        "type": payload.type.value,
        "jobId": payload.job_id,
        "metadata": dict(payload.metadata),
        "files": [{"path": file.name, "size": file.size_bytes, "mode": file.mode} for file in payload.files],
    }


def pipeline_json(pipeline: ClaraPipeline, *, with_files: bool = True) -> dict[str, Any]:
    """Return a pipeline, with or without its definition."""
    files = [{"path": file.path, "content": file.content} for file in pipeline.files]
    return {
        "pipelineId": pipeline.pipeline_id,
        "name": pipeline.name,
        "metadata": dict(pipeline.metadata),
        **({"files": files} if with_files else {}),
    }


def version_json(version: PlatformVersion) -> dict[str, Any]:
    """Return the platform's version."""
    return {"major": version.major, "minor": version.minor, "patch": version.patch, "label": version.label}


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
