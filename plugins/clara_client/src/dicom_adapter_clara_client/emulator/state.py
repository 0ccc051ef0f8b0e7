"""The emulated platform: one state for all protocols, without a network. Thread-safe.

Requests must conform strictly to NVIDIA's documentation. `rules` describes the decisions for undocumented cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from threading import RLock
from typing import Literal

from dicom_adapter import JobPriority
from dicom_adapter_clara_client.emulator import rules
from dicom_adapter_clara_client.emulator.folder import FolderStore
from dicom_adapter_clara_client.emulator.jobs import PlatformJobs
from dicom_adapter_clara_client.emulator.outputs import store_outputs
from dicom_adapter_clara_client.emulator.payloads import Payloads
from dicom_adapter_clara_client.emulator.pipelines import Pipelines
from dicom_adapter_clara_client.emulator.rest_keys import IdempotencyKeys
from dicom_adapter_clara_client.emulator.rules import ClaraError
from dicom_adapter_clara_client.emulator.store import MemoryStore
from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraPipeline, PlatformVersion, RunPlan
from dicom_adapter_clara_client.wire.codes import ClaraCode


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(timezone.utc)


class EmulatedPlatform:
    """Jobs, payloads and pipelines, as on the Clara Platform.

    With `folder` the state survives the process; otherwise everything is in memory, including uploads. `pipelines` are
    the ids of the registered pipelines, or "any" to accept every well-formed id.

        platform = EmulatedPlatform(pipelines="any", run=RunPlan(seconds=2))
        job = platform.create_job(32 * "a", "ae-lung-20260901120000")
        platform.payloads.upload(job.payload_id, "dcm/1.dcm", [data])  # becomes input/dcm/1.dcm
        platform.jobs.start(job.job_id)
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        pipelines: Literal["any"] | Iterable[str] = (),
        run: RunPlan | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        store = MemoryStore() if folder is None else FolderStore(folder)
        lock = RLock()
        known = store.load()
        initial = () if pipelines == "any" else _initial_pipelines(pipelines)
        registered = {pipeline.pipeline_id: pipeline for pipeline in (*initial, *known.pipelines)}
        self.version = PlatformVersion()
        self.jobs = PlatformJobs(store, lock, known.jobs, clock, run or RunPlan(), self._store_outputs)
        self.payloads = Payloads(store, lock, known.payloads, self.jobs.state_of)
        self.keys = IdempotencyKeys(store, lock, known.answers, clock)
        self.pipelines = Pipelines(store, lock, registered.values(), any_id=pipelines == "any")

    def create_job(
        self,
        pipeline_id: str,
        name: str,
        *,
        priority: JobPriority = JobPriority.NORMAL,
        metadata: Mapping[str, str] | None = None,
        input_payloads: Iterable[str] = (),
    ) -> ClaraJob:
        """Create a pending job and its payload, with the files of the reusable `input_payloads` in its input folder."""
        return self.jobs.create(
            self.pipelines,
            self.payloads,
            pipeline_id=pipeline_id,
            name=name,
            priority=priority,
            metadata=metadata or {},
            input_payloads=input_payloads,
        )

    def _store_outputs(self, job: ClaraJob) -> None:
        store_outputs(self.payloads, job)

    def pipeline_of(self, ids: Mapping[str, str]) -> str | None:
        """Return the pipeline of a call from its `pipelineId`, `jobId` or `payloadId`; None if there is none."""
        try:
            if "pipelineId" in ids:
                return ids["pipelineId"].lower()
            job_id = ids.get("jobId") or self.payloads.job_of(ids.get("payloadId", ""))
            return None if job_id is None else self.jobs.status(job_id).pipeline_id
        except ClaraError:
            return None


def _initial_pipelines(ids: Iterable[str]) -> Iterable[ClaraPipeline]:
    for text in ids:
        key = rules.identifier(text, "pipeline", ClaraCode.PIPELINE_ID_MALFORMED)
        yield ClaraPipeline(pipeline_id=key, name=key)
