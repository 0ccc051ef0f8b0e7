"""`JobFolderSubmitter`: base class of the submitters `command` and `container`.

A subclass returns the settings of a pipeline, and the process to run for a job (`Launch`). Everything else is here: the
steps of a job in its folder, its runner, status, results, cancellation and clean-up.
"""

from __future__ import annotations

import math
import os
import threading
import time
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from attrs import evolve

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
)
from dicom_adapter_pipelines import contracts
from dicom_adapter_pipelines.job_folder import JobFolder, JobFolders
from dicom_adapter_pipelines.launch import Launch
from dicom_adapter_pipelines.outcome import Outcome, OutcomeState
from dicom_adapter_pipelines.outputs import OutputRefused, list_outputs, open_output
from dicom_adapter_pipelines.runner import start_runner
from dicom_adapter_pipelines.settings import DAY_S, JobFolderSettings, PipelineSettings

JobFolderSettingsT = TypeVar("JobFolderSettingsT", bound=JobFolderSettings)

SWEEP_EVERY_S = 3600.0  # minimum time between two sweeps
END_SECONDS = 15.0  # `clean_up` waits for the end of the runner for this time; `cancel` for this time and `grace`


class JobFolderSubmitter(Submitter[JobFolderSettingsT]):
    """Runs the jobs on this machine, each in its folder and with its runner. All methods may be repeated."""

    follows_jobs = True
    most_running = 1
    _swept_at = -math.inf  # not yet
    _has_folder = False  # the folder of the jobs was created, with its parents

    def __init__(self, settings: JobFolderSettingsT, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        self._launching = threading.Lock()

    # --- for subclasses

    @property
    @abstractmethod
    def pipelines(self) -> Mapping[str, PipelineSettings]:
        """The configured pipelines by their ids."""

    @abstractmethod
    def make_launch(self, job: Job, folder: JobFolder, pipeline: PipelineSettings) -> Launch:
        """Return the process for a job whose input/ is complete.

        Called at the start of a run, once unless a crash follows. Raises Retriable if the job has to wait, for example
        for a GPU, and Permanent if it cannot be run.
        """

    def command_user(self, pipeline: PipelineSettings) -> str:  # noqa: ARG002 - for subclasses
        """Return the user that must be able to read the input and to write the output; "": the user of the adapter."""
        return ""

    # --- the interface of the core

    @property
    def folders(self) -> JobFolders:
        """The folders of all jobs."""
        # A runner has another current folder.
        return JobFolders((self.settings.folder or self.context.data_folder).absolute())

    def open(self) -> None:
        self._sweep()

    def pipeline_ids(self) -> Collection[str]:
        return self.pipelines.keys()

    def create_job(self, job: Job) -> PlatformJob:
        pipeline_of(self.pipelines, job)
        with _reporting_files():
            if time.monotonic() - self._swept_at > SWEEP_EVERY_S:
                self._sweep()
            if not self._has_folder:  # only once: later, a missing folder means that its disk is not mounted
                self.folders.create()
                self._has_folder = True
            for run in range(1, job.run):  # the runs that the operator has retried: only their logs are kept
                earlier = self.folders.of(evolve(job, run=run).run_id)
                if earlier.exists and not earlier.is_running:
                    earlier.clean_up()
            self.folders.of(job.run_id).create(job)
        return PlatformJob(job_id=job.run_id)

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        with _reporting_files():
            self._existing(job).describe(job, metadata)

    def upload(self, job: Job, upload: Upload) -> None:
        with _reporting_files():
            self._existing(job).add(upload)

    def start(self, job: Job) -> None:
        pipeline = pipeline_of(self.pipelines, job)
        with _reporting_files():
            folder = self._existing(job)
            if folder.is_cancelled:
                raise Permanent(f"job {job.run_id}: it was cancelled and cannot be started")
            if folder.outcome() is not None:
                return
            if folder.launch() is None:
                settings = pipeline.settings
                arrange = contracts.arranger(pipeline.contract, job, settings)
                found = len(folder.uploaded())
                if found != job.instance_count and not folder.input.exists():
                    missing = f"its folder has {found} of {job.instance_count} instances, so files were deleted"
                    raise Permanent(f"job {job.run_id}: {missing}; {_give_up(job)}")
                folder.prepare(arrange, self.command_user(pipeline))
                with self._launching:  # a GPU is taken as soon as the file exists
                    self.make_launch(job, folder, pipeline).save(folder.launch_file)
            start_runner(folder.path)

    def status(self, job: Job) -> PlatformStatus:
        with _reporting_files():
            folder = self.folders.of(job.run_id)
            if not folder.exists:
                detail = f"the folder of the job was deleted; run `dicom-adapter jobs retry {job.job_id}`"
                return PlatformStatus(state="lost", finished=True, succeeded=False, detail=detail)
            # In this order: a runner writes the outcome before it ends.
            runs, outcome = folder.is_running, folder.outcome()
            if outcome is None and runs:
                return PlatformStatus(state="cancelling" if folder.is_cancelled else "running", finished=False)
            if folder.is_cancelled:
                folder.mark_reported()
                return PlatformStatus(state="cancelled", finished=True, succeeded=False)
            if outcome is not None:
                if outcome.state is not OutcomeState.SUCCEEDED:
                    folder.mark_reported()
                return _status_of(outcome)
            if folder.launch() is None:
                return PlatformStatus(state="not started", finished=False)
            start_runner(folder.path)  # its runner was interrupted, for example by a power loss
            return PlatformStatus(state="running", finished=False, detail="it was interrupted and started again")

    def cancel(self, job: Job) -> None:
        with _reporting_files():
            folder = self.folders.of(job.run_id)
            if not folder.exists:
                return
            folder.mark_cancelled()
            launch = folder.launch()
            if not folder.wait_for_runner(END_SECONDS + (0 if launch is None else launch.grace)):
                raise Retriable(f"job {job.run_id}: its processes have not ended yet")
            self._end_interrupted(folder)
            folder.clean_up()

    def _end_interrupted(self, folder: JobFolder) -> None:
        """End the processes that a killed runner has left running: the runner of a cancelled job does only this."""
        if folder.outcome() is None and folder.launch() is not None:
            start_runner(folder.path)

    def results(self, job: Job) -> Iterable[Output]:
        with _reporting_files():
            folder, launch = self._existing(job), self._existing(job).launch()
            if launch is None:
                raise Permanent(f"job {job.run_id}: its outputs were deleted; {_give_up(job)}")
            try:
                files = list_outputs(folder.output, launch.ignored_outputs)
            except OutputRefused as refusal:
                raise Permanent(f"job {job.run_id}: {refusal}") from refusal
        return [Output(name=file.name, open=partial(_open, folder.output, file.name)) for file in files]

    def clean_up(self, job: Job) -> None:
        with _reporting_files():
            folder = self.folders.of(job.run_id)
            if not folder.exists:
                return
            # A runner that has written the outcome ends in an instant.
            if not folder.wait_for_runner(END_SECONDS):
                raise Retriable(f"job {job.run_id}: its processes have not ended yet")
            folder.clean_up()

    def log(self, job: Job) -> BinaryIO | None:
        return self.folders.of(job.run_id).open_log()

    def folder_problems(self) -> list[str]:
        """Return why the folder for jobs cannot be used. It need not exist yet."""
        path = self.folders.path.absolute()
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            return [f"{existing} must be a folder that the service's user can write"]
        return []

    # --- parts

    def _existing(self, job: Job) -> JobFolder:
        folder = self.folders.of(job.run_id)
        if not folder.exists:
            raise Permanent(f"job {job.run_id}: its folder was deleted; {_give_up(job)}")
        return folder

    def _sweep(self) -> None:
        """Delete the folders that were needed last more than `keep-logs-days` ago.

        A failure is not important: the next sweep follows.
        """
        self._swept_at = time.monotonic()
        try:
            self.folders.sweep(time.time() - self.settings.keep_logs_days * DAY_S)
        except OSError:
            pass  # the steps of jobs report a folder that cannot be used


def limits_of(pipeline: PipelineSettings) -> dict[str, Any]:
    """Return the arguments of `Launch` that every pipeline configures."""
    return {
        "time_limit": pipeline.time_limit,
        "grace": pipeline.grace,
        "success": pipeline.success,
        "expect_results": pipeline.expect_results,
        "ignored_outputs": contracts.ignored_outputs(pipeline.contract),
        "max_log_bytes": pipeline.max_log_bytes,
        "max_output_bytes": pipeline.max_output_bytes,
        "reruns": pipeline.reruns,
    }


def pipeline_of(pipelines: Mapping[str, PipelineSettings], job: Job) -> PipelineSettings:
    """Return the settings of a job's pipeline. Raises Permanent that names the configured ones."""
    found = pipelines.get(job.pipeline_id)
    if found is None:
        known = ", ".join(sorted(pipelines)) or "none"
        raise Permanent(
            f"pipeline {job.pipeline_id!r} is not configured (configured: {known}): "
            f"add [submitters.{job.submitter}.pipelines.{job.pipeline_id}]"
        )
    return found


def _give_up(job: Job) -> str:
    """Return the next step for a job whose files are gone: its steps cannot be repeated."""
    return f"run `dicom-adapter jobs cancel {job.job_id}`, and send its instances again"


def _status_of(outcome: Outcome) -> PlatformStatus:
    succeeded = outcome.state is OutcomeState.SUCCEEDED
    return PlatformStatus(state=outcome.state.value, finished=True, succeeded=succeeded, detail=outcome.reason)


def _open(folder: Path, name: str) -> BinaryIO:
    try:
        return open_output(folder, name)
    except OutputRefused as refusal:
        raise Permanent(str(refusal)) from refusal
    except OSError as failure:
        raise Retriable(f"an output file cannot be read: {os.strerror(failure.errno or 0)}") from failure


@contextmanager
def _reporting_files() -> Iterator[None]:
    """Raise Retriable for a failure of the disk of the job folders."""
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or type(failure).__name__
        raise Retriable(f"the folder for jobs cannot be used: {reason}; check its disk and permissions") from failure
