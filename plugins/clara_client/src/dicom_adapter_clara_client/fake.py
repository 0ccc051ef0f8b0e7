"""The `fake` submitter: replaces an inference platform in tests, records jobs, and fails on demand."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from enum import Enum
from functools import partial
from io import BytesIO
from pathlib import Path

from attrs import evolve, frozen

from dicom_adapter import (
    Job,
    Output,
    Permanent,
    PlatformJob,
    PlatformStatus,
    Retriable,
    Submitter,
    SubmitterContext,
    Upload,
    at_least,
    setting,
)
from dicom_adapter_clara_client.fake_folder import FolderRecords
from dicom_adapter_clara_client.fake_records import (
    FakeCall,
    FakeJob,
    FakeOutcome,
    FakeRecords,
    FakeState,
    MemoryRecords,
    SubmitterCall,
)
from dicom_adapter_clara_client.made_outputs import make_outputs

RUN_ID = re.compile(r"[0-9a-f]{32}(-[0-9]{1,7})?")  # form of `Job.run_id`, safe as a path


class FakeFaultKind(str, Enum):
    """Kind of error that a fault raises."""

    RETRIABLE = "retriable"
    PERMANENT = "permanent"
    BUG = "bug"


@frozen(kw_only=True)
class FakeFault:
    """Calls that fail without any effect. Calls are counted from the start of the process."""

    call: SubmitterCall = setting(help="The call that fails, before it has any effect.")
    times: int = setting(
        default=1,
        validator=at_least(0),
        help="Number of such calls that fail, counted from the start of the host process; 0: all of them.",
    )
    kind: FakeFaultKind = setting(default=FakeFaultKind.RETRIABLE, help="The kind of error that these calls raise.")
    pipeline: str | None = setting(default=None, help="Id of a pipeline: only calls for its jobs fail.")
    after: int = setting(default=0, validator=at_least(0), help="Number of such calls that succeed first.")


class FakeEnd(str, Enum):
    """How jobs end on the fake platform."""

    SUCCEEDS = "succeeds"
    FAILS = "fails"


@frozen(kw_only=True)
class FakeSettings:
    """The [submitters.<name>] table of `type = "fake"`."""

    folder: Path | None = setting(
        default=None,
        help="Folder for jobs; by default they are kept in memory and lost when the host process stops.",
    )
    outcome: FakeEnd | None = setting(
        default=None,
        help=(
            "How jobs end on the fake platform; the adapter follows them until then. If omitted, jobs are not "
            "followed: `submitted` is their last state."
        ),
    )
    run_seconds: float = setting(
        default=0.0, validator=at_least(0), help="Seconds from the start of a job to its end. Requires `outcome`."
    )
    output_folder: Path | None = setting(
        default=None,
        help="Folder whose files are results of each job that succeeds. Requires `outcome`.",
    )
    secondary_capture: bool = setting(
        default=False,
        help=(
            "Each job that succeeds has a secondary capture as result: an image with a test pattern in the study of "
            "the job's first instance. Requires `outcome`."
        ),
    )
    fail: tuple[FakeFault, ...] = setting(
        default=(),
        help="Faults, applied in this order. A call that fails because of a fault is not counted for later faults.",
    )

    def __attrs_post_init__(self) -> None:
        """Check the combination of the fields."""
        if self.outcome is None and (self.run_seconds or self.output_folder or self.secondary_capture):
            raise ValueError("run-seconds, output-folder and secondary-capture need outcome")


class FakeSubmitter(Submitter[FakeSettings]):
    """A fake platform in memory or in a folder. A folder survives restarts."""

    name = "fake"

    def __init__(self, settings: FakeSettings, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        self.follows_jobs = settings.outcome is not None
        self._records: FakeRecords = FolderRecords(settings.folder) if settings.folder else MemoryRecords()
        self._faults = _Faults(settings.fail)
        # Serializes changes of the records; only the data of uploads is read concurrently.
        self._lock = threading.Lock()

    @property
    def jobs(self) -> Mapping[str, FakeJob]:
        """The jobs by `run_id`: the id of the adapter's job; from its second run on, with the number of the run."""
        with self._lock:
            return self._records.jobs()

    @property
    def calls(self) -> list[FakeCall]:
        """All calls so far, in the order in which they ended."""
        with self._lock:
            return self._records.calls()

    def open(self) -> None:
        outputs = self.settings.output_folder
        if outputs is not None and not outputs.is_dir():
            raise Retriable(f"output-folder must be an existing folder: {outputs}")
        self._records.open()

    def check_connection(self) -> str:
        folder = self.settings.folder
        if folder is None:
            return "jobs are kept in memory"
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise Permanent(f"{existing} must be a folder that the service's user can write")
        return f"jobs are kept in {folder}"

    def create_job(self, job: Job) -> PlatformJob:
        self._answer(SubmitterCall.CREATE, job, partial(self._create, job))
        return PlatformJob(job_id=f"fake-{job.run_id}", payload_id=f"fake-payload-{job.run_id}")

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        attach = partial(evolve, metadata=dict(metadata))
        self._answer(SubmitterCall.ADD_METADATA, job, partial(self._change, job, attach))

    def upload(self, job: Job, upload: Upload) -> None:
        self._answer(SubmitterCall.UPLOAD, job, partial(self._upload, job, upload), upload.position)

    def start(self, job: Job) -> None:
        self._answer(SubmitterCall.START, job, partial(self._change, job, _started))

    def status(self, job: Job) -> PlatformStatus:
        self._answer(SubmitterCall.STATUS, job, partial(self._end_if_due, job))
        with self._lock:
            return _status_of(self._records.job(job.run_id), is_followed=self.follows_jobs)

    def results(self, job: Job) -> Iterable[Output]:
        self._answer(SubmitterCall.RESULTS, job, partial(self._state, job))
        with self._lock:
            outputs = self._records.outputs(job.run_id)
        return [Output(name=name, open=opener) for name, opener in outputs.items()]

    def clean_up(self, job: Job) -> None:
        """Delete the results. The instances are kept, so that people and tests can look at them."""
        self._answer(SubmitterCall.CLEAN_UP, job, partial(self._clean_up, job))

    def end_job(self, run_id: str, *, succeeds: bool, outputs: Mapping[str, bytes] | None = None) -> None:
        """End a running job now, with outputs in addition to those of the settings. For tests."""
        with self._lock:
            for name, data in (outputs or {}).items():
                self._records.add_output(run_id, name, BytesIO(data))
            self._end(self._records.job(run_id), succeeds=succeeds)

    def cancel(self, job: Job) -> None:
        self._answer(SubmitterCall.CANCEL, job, partial(self._cancel, job))

    def _answer(self, call: SubmitterCall, job: Job, act: Callable[[], object], position: int | None = None) -> None:
        """Run `act` unless a fault is due, and record its outcome. `act` returns False if it has changed nothing."""
        log = partial(self._log, call=call, job_id=job.run_id, position=position)
        try:
            self._faults.raise_if_due(call, job)
            changed = act()
        except Exception as error:
            log(outcome=_outcome_of(error))
            raise
        log(outcome=FakeOutcome.DONE if changed else FakeOutcome.UNCHANGED)

    def _log(self, *, call: SubmitterCall, job_id: str, position: int | None, outcome: FakeOutcome) -> None:
        now = datetime.now(timezone.utc)
        with self._lock:
            self._records.log(FakeCall(time=now, call=call, job_id=job_id, outcome=outcome, position=position))

    def _create(self, job: Job) -> bool:
        if RUN_ID.fullmatch(job.run_id) is None:
            raise Permanent(f"job {job.job_id!r}: its id must be 32 lower-case hexadecimal digits")
        with self._lock:
            if self._records.state(job.run_id) is not None:
                return False
            self._records.save(_created(job))
            return True

    def _change(self, job: Job, change: Callable[[FakeJob], FakeJob]) -> bool:
        self._state(job)
        with self._lock:
            before = self._records.job(job.run_id)
            after = change(before)
            if after == before:
                return False
            self._records.save(after)
            return True

    def _upload(self, job: Job, upload: Upload) -> bool:
        if self._is_uploaded(job, upload.position):
            return False
        with upload.open() as source:
            received = self._records.receive_upload(job.run_id, source)
        with self._lock:
            self._records.add(job.run_id, upload.position, upload.instance.sop_instance_uid, received)
        return True

    def _is_uploaded(self, job: Job, position: int) -> bool:
        state = self._state(job)
        with self._lock:
            if self._records.has(job.run_id, position):
                return True
        if state is not FakeState.PENDING:
            raise Permanent(f"job {job.job_id}: it is {state.value} and accepts no more instances")
        return False

    def _end_if_due(self, job: Job) -> bool:
        """End a running job if its `run-seconds` have passed: no timer does this. Return True: the call is done."""
        outcome = self.settings.outcome
        if self._state(job) is FakeState.RUNNING and outcome is not None:
            with self._lock:
                running = self._records.job(job.run_id)
                seconds = (datetime.now(timezone.utc) - (running.started_at or running.created_at)).total_seconds()
                if running.state is FakeState.RUNNING and seconds >= self.settings.run_seconds:
                    self._end(running, succeeds=outcome is FakeEnd.SUCCEEDS)
        return True

    def _end(self, job: FakeJob, *, succeeds: bool) -> None:
        """End a job; the caller holds the lock.

        If the process is killed before the job is saved, the next call makes the outputs again.
        """
        if succeeds:
            settings, first = self.settings, partial(self._records.open_first, job.job_id)
            for output in make_outputs(
                settings.output_folder, first, secondary_capture=settings.secondary_capture, seed=job.job_id
            ):
                with output.open() as source:
                    self._records.add_output(job.job_id, output.name, source)
        self._records.save(evolve(job, state=FakeState.STOPPED, succeeded=succeeds))

    def _clean_up(self, job: Job) -> bool:
        if self._find(job) is None:
            return False
        with self._lock:
            self._records.delete_outputs(job.run_id)
        return True

    def _cancel(self, job: Job) -> bool:
        if self._find(job) is None:
            return False  # the job was never created: there is nothing to stop
        return self._change(job, partial(evolve, state=FakeState.STOPPED))

    def _state(self, job: Job) -> FakeState:
        state = self._find(job)
        if state is None:
            raise Permanent(f"job {job.job_id}: it does not exist on the fake platform: create it first")
        return state

    def _find(self, job: Job) -> FakeState | None:
        if RUN_ID.fullmatch(job.run_id) is None:
            return None
        with self._lock:
            return self._records.state(job.run_id)


class _Faults:
    """The faults and their counts of calls. A call that fails because of one fault is not counted by later faults."""

    def __init__(self, faults: tuple[FakeFault, ...]) -> None:
        self._faults = faults
        self._seen = [0] * len(faults)  # number of matching calls so far
        self._lock = threading.Lock()

    def raise_if_due(self, call: SubmitterCall, job: Job) -> None:
        """Raise the error of the fault that is due for this call, if any."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.call is call and fault.pipeline in (None, job.pipeline_id):
                    self._seen[index] += 1
                    if _is_due(fault, self._seen[index]):
                        raise _error(fault, job)


def _is_due(fault: FakeFault, seen: int) -> bool:
    """Return whether call number `seen`, counted from 1, fails."""
    failing = seen - fault.after
    return failing > 0 and (fault.times == 0 or failing <= fault.times)


def _error(fault: FakeFault, job: Job) -> Exception:
    message = f"job {job.job_id}: the fake platform is configured to fail {fault.call.value}"
    if fault.kind is FakeFaultKind.RETRIABLE:
        return Retriable(message)
    return Permanent(message) if fault.kind is FakeFaultKind.PERMANENT else RuntimeError(message)


def _outcome_of(error: Exception) -> FakeOutcome:
    if isinstance(error, Retriable):
        return FakeOutcome.RETRIABLE
    return FakeOutcome.PERMANENT if isinstance(error, Permanent) else FakeOutcome.BUG


def _status_of(job: FakeJob, *, is_followed: bool) -> PlatformStatus:
    finished = job.state is FakeState.STOPPED
    if not (finished and is_followed):
        return PlatformStatus(state=job.state.value, finished=finished)
    detail = {None: "cancelled", True: "", False: "the fake platform is configured to let jobs fail"}[job.succeeded]
    return PlatformStatus(state=job.state.value, finished=True, succeeded=job.succeeded is True, detail=detail)


def _created(job: Job) -> FakeJob:
    return FakeJob(
        job_id=job.run_id,
        name=job.name,
        ae_title=job.ae_title,
        pipeline_id=job.pipeline_id,
        priority=job.priority,
        submitter=job.submitter,
        created_at=datetime.now(timezone.utc),
    )


def _started(job: FakeJob) -> FakeJob:
    if job.state is FakeState.RUNNING:
        return job
    if job.state is FakeState.STOPPED:
        raise Permanent(f"job {job.job_id}: it was stopped and cannot be started again")
    return evolve(job, state=FakeState.RUNNING, started_at=datetime.now(timezone.utc), starts=job.starts + 1)
