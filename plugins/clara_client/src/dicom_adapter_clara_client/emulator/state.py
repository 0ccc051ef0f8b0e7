"""The emulated platform: one state behind all of its faces, without any network. Safe to use from many threads.

What NVIDIA documents is demanded strictly; `rules` says what was decided where no source says anything.
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
from dicom_adapter_clara_client.emulator.payloads import Payloads
from dicom_adapter_clara_client.emulator.pipelines import Pipelines
from dicom_adapter_clara_client.emulator.rest_keys import IdempotencyKeys
from dicom_adapter_clara_client.emulator.rules import ClaraError
from dicom_adapter_clara_client.emulator.store import MemoryStore
from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraPipeline, PlatformVersion, RunPlan
from dicom_adapter_clara_client.wire.codes import ClaraCode


def utc_now() -> datetime:
    """The clock of the world."""
    return datetime.now(timezone.utc)


class EmulatedPlatform:
    """Jobs, payloads and pipelines, as the Clara Platform keeps them.

    `folder` makes it outlive the process; without one all is in memory, uploads included. `pipelines` names the ids
    that are known from the start, or is "any" for every well-formed one.

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
        given = () if pipelines == "any" else _given(pipelines)
        registered = {pipeline.pipeline_id: pipeline for pipeline in (*given, *known.pipelines)}
        self.version = PlatformVersion()
        self.jobs = PlatformJobs(store, lock, known.jobs, clock, run or RunPlan())
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
        """Make a pending job, and its payload with the files of the reusable `input_payloads` in its input folder."""
        return self.jobs.create(
            self.pipelines,
            self.payloads,
            pipeline_id=pipeline_id,
            name=name,
            priority=priority,
            metadata=metadata or {},
            input_payloads=input_payloads,
        )

    def pipeline_of(self, ids: Mapping[str, str]) -> str | None:
        """The pipeline that a call is about, by its `pipelineId`, `jobId` or `payloadId`, if there is one."""
        try:
            if "pipelineId" in ids:
                return ids["pipelineId"].lower()
            job_id = ids.get("jobId") or self.payloads.job_of(ids.get("payloadId", ""))
            return None if job_id is None else self.jobs.status(job_id).pipeline_id
        except ClaraError:
            return None


def _given(ids: Iterable[str]) -> Iterable[ClaraPipeline]:
    for text in ids:
        key = rules.identifier(text, "pipeline", ClaraCode.PIPELINE_ID_MALFORMED)
        yield ClaraPipeline(pipeline_id=key, name=key)
