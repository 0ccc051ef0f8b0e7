"""The jobs of the platform: pending until they are started, running for the time of their `RunPlan`, then stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from threading import RLock

from attrs import evolve

from dicom_adapter import JobPriority
from dicom_adapter_clara_client.emulator import rules
from dicom_adapter_clara_client.emulator.payloads import Payloads
from dicom_adapter_clara_client.emulator.pipelines import Pipelines
from dicom_adapter_clara_client.emulator.rules import Conflict, NotFound
from dicom_adapter_clara_client.emulator.store import PlatformStore
from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraJobState, ClaraJobStatus, JobFilter, RunPlan
from dicom_adapter_clara_client.wire.codes import ClaraCode

METADATA_REFUSED = ClaraCode.JOB_METADATA_REFUSED


class PlatformJobs:
    """All jobs. There is no timer: a job whose running time is over becomes stopped when it is read."""

    def __init__(
        self,
        store: PlatformStore,
        lock: RLock,
        known: Iterable[ClaraJob],
        clock: Callable[[], datetime],
        run: RunPlan,
        on_success: Callable[[ClaraJob], None],
    ) -> None:
        """Keep the jobs in `store`. `on_success` is called before a job becomes stopped and healthy."""
        self._on_success = on_success
        self._store = store
        self._lock = lock
        self._clock = clock
        self._jobs = {job.job_id: job for job in known}
        self._default_plan = run
        self._plans: dict[str, RunPlan] = {}  # plans for single pipelines, by pipeline id

    def set_run(self, run: RunPlan, pipeline_id: str | None = None) -> None:
        """Set the plan for jobs that start later: jobs of one pipeline, or of all pipelines without their own plan."""
        with self._lock:
            if pipeline_id is None:
                self._default_plan = run
            else:
                self._plans[pipeline_id.lower()] = run

    def create(
        self,
        pipelines: Pipelines,
        payloads: Payloads,
        *,
        pipeline_id: str,
        name: str,
        priority: JobPriority,
        metadata: Mapping[str, str],
        input_payloads: Iterable[str],
    ) -> ClaraJob:
        """Create a pending job and its payload; see `EmulatedPlatform.create_job`."""
        rules.check_job_name(name)
        validated = rules.with_metadata({}, metadata.items(), METADATA_REFUSED)
        with self._lock:
            pipeline = pipelines.details(pipeline_id)
            job = ClaraJob(
                job_id=rules.new_id(),
                payload_id=rules.new_id(),
                pipeline_id=pipeline.pipeline_id,
                name=name,
                priority=priority,
                metadata=validated,
                created=self._clock(),
            )
            payloads.create_for(job.job_id, job.payload_id, input_payloads)
            return self._save(job)

    def start(self, job_id: str, variables: Mapping[str, str] | None = None) -> ClaraJob:
        """Start a pending job; its payload is read-only from now on."""
        with self._lock:
            job = self._current(job_id)
            if job.state is not ClaraJobState.PENDING:
                state = f"it is {job.state.value}, {job.status.value}"
                raise Conflict(ClaraCode.JOB_NOT_PENDING, f"only a pending job can be started: {state}")
            now = self._clock()
            run = self._plans.get(job.pipeline_id, self._default_plan)
            ends = None if run.seconds is None else now + timedelta(seconds=run.seconds)
            start_variables = dict(variables or {})
            return self._save(
                evolve(job, state=ClaraJobState.RUNNING, started=now, ends=ends, run=run, variables=start_variables)
            )

    def cancel(self, job_id: str, reason: str = "") -> ClaraJob:
        """Stop a pending or running job. For a stopped job, do nothing."""
        with self._lock:
            job = self._current(job_id)
            if job.state is ClaraJobState.STOPPED:
                return job
            return self._save(_stopped(job, self._clock(), ClaraJobStatus.CANCELED, (reason,) if reason else ()))

    def finish(
        self, job_id: str, status: ClaraJobStatus = ClaraJobStatus.HEALTHY, messages: tuple[str, ...] = ()
    ) -> ClaraJob:
        """End a running job now. Only for tests and demonstrations: the API has no such call."""
        with self._lock:
            job = self._current(job_id)
            if job.state is not ClaraJobState.RUNNING:
                raise Conflict(ClaraCode.JOB_NOT_PENDING, f"only a running job can end: it is {job.state.value}")
            return self._end(job, self._clock(), status, messages)

    def status(self, job_id: str) -> ClaraJob:
        """Return one job with its details."""
        with self._lock:
            return self._current(job_id)

    def state_of(self, job_id: str) -> ClaraJobState:
        """Return the state of a job."""
        return self.status(job_id).state

    def list(self, wanted: JobFilter | None = None) -> tuple[ClaraJob, ...]:
        """Return the jobs that match a filter, in order of creation."""
        with self._lock:
            return tuple(job for job in map(self._current, list(self._jobs)) if wanted is None or wanted.matches(job))

    def add_metadata(self, job_id: str, metadata: Mapping[str, str]) -> ClaraJob:
        """Add entries to a job's metadata: all of them or none."""
        with self._lock:
            job = self._current(job_id)
            return self._save(
                evolve(job, metadata=rules.with_metadata(job.metadata, metadata.items(), METADATA_REFUSED))
            )

    def remove_metadata(self, job_id: str, keys: Iterable[str]) -> ClaraJob:
        """Remove the entries with these keys from a job's metadata."""
        with self._lock:
            job = self._current(job_id)
            return self._save(evolve(job, metadata=rules.without_metadata(job.metadata, keys)))

    def _current(self, job_id: str) -> ClaraJob:
        """Return a job in its current state: stopped if its running time is over. Raises NotFound."""
        key = rules.identifier(job_id, "job", ClaraCode.JOB_ID_MALFORMED)
        if key not in self._jobs:
            raise NotFound(ClaraCode.NO_SUCH_JOB, f"no job {key}")
        job = self._jobs[key]
        if job.state is ClaraJobState.RUNNING and job.ends is not None and job.ends <= self._clock():
            return self._end(job, job.ends, job.run.status, job.run.messages)
        return job

    def _end(self, job: ClaraJob, when: datetime, status: ClaraJobStatus, messages: tuple[str, ...]) -> ClaraJob:
        if status is ClaraJobStatus.HEALTHY:
            self._on_success(job)  # before the job is saved: after a kill between the two steps, it is called again
        return self._save(_stopped(job, when, status, messages))

    def _save(self, job: ClaraJob) -> ClaraJob:
        self._store.save_job(job)
        self._jobs[job.job_id] = job
        return job


def _stopped(job: ClaraJob, when: datetime, status: ClaraJobStatus, messages: tuple[str, ...]) -> ClaraJob:
    return evolve(job, state=ClaraJobState.STOPPED, status=status, stopped=when, messages=job.messages + messages)
