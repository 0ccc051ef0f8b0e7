"""The submitter `container`: runs a container image for each job, with podman or docker."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from attrs import evolve

from dicom_adapter import Job, Permanent, PlatformJob, PlatformStatus, Retriable, SubmitterContext
from dicom_adapter_pipelines.container.engine import Engine, EngineFailure, is_local, missing_image
from dicom_adapter_pipelines.container.places import WORK
from dicom_adapter_pipelines.container.plan import ContainerPlan, EngineCommand, EngineKind, report_of
from dicom_adapter_pipelines.container.settings import ContainerPipeline, ContainerSettings, Pull
from dicom_adapter_pipelines.contracts import JOB_VARIABLE
from dicom_adapter_pipelines.job_folder import JobFolder
from dicom_adapter_pipelines.launch import Launch
from dicom_adapter_pipelines.settings import PipelineSettings
from dicom_adapter_pipelines.submitter import JobFolderSubmitter, limits_of, pipeline_of

PROGRAM = "dicom_adapter_pipelines.container"
# Variables of the service that the client of the engine, and the program that calls it, need.
INHERITED = re.compile(
    "PATH|HOME|USER|LOGNAME|TMPDIR|LANG|TZ|LC_.*|XDG_.*|DBUS_SESSION_BUS_ADDRESS|CONTAINERS?_.*|DOCKER_.*|STORAGE_.*|"
    "REGISTRY_AUTH_FILE|SSL_CERT_.*|.*_PROXY|LD_LIBRARY_PATH|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV",
    re.IGNORECASE,
)


class ContainerSubmitter(JobFolderSubmitter[ContainerSettings]):
    """Runs one container for each job. The runner of the job starts the engine's client in the foreground."""

    name = "container"

    def __init__(self, settings: ContainerSettings, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        if settings.gpus:
            self.most_running = len(settings.gpus)

    @property
    def pipelines(self) -> Mapping[str, PipelineSettings]:
        return self.settings.pipelines

    def create_job(self, job: Job) -> PlatformJob:
        """Create the job's folder if the engine is usable and either has the image or may pull it."""
        pipeline = cast(ContainerPipeline, pipeline_of(self.pipelines, job))
        engine = self._engine()
        try:
            image = Engine(engine).image(pipeline.image)
        except EngineFailure as failure:
            raise Retriable(str(failure)) from failure
        if image is None and self.settings.pull is Pull.NEVER:
            raise Permanent(f'{missing_image(engine.kind.value, pipeline.image)} (pull = "never"), then retry the job')
        return super().create_job(job)

    def make_launch(self, job: Job, folder: JobFolder, pipeline: PipelineSettings) -> Launch:
        plan = self.make_plan(job, folder, cast(ContainerPipeline, pipeline))
        program = (sys.executable, "-m", PROGRAM)
        variables = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
        return Launch(
            job_id=job.job_id,
            arguments=(*program, "run", str(folder.path.absolute())),
            environment={**variables, JOB_VARIABLE: str(folder.manifest)},
            end_arguments=(*program, "end", str(folder.path.absolute())),
            may_wait=bool(plan.gpus),
            details=plan.details(),
            **limits_of(pipeline),
        )

    def make_plan(self, job: Job, folder: JobFolder, pipeline: ContainerPipeline) -> ContainerPlan:
        if ":" in str(folder.path.absolute()):
            raise Permanent(f"the folder for jobs {folder.path.parent} has a `:` in its path, which no mount can have")
        engine = self._engine()
        own = f"{os.geteuid()}:{os.getegid()}"
        user = pipeline.user or own
        problem = user_problem(engine.kind, pipeline)
        if problem:
            raise Permanent(problem)
        network = pipeline.network
        return ContainerPlan(
            engine=engine,
            name=f"dicom-adapter-{job.run_id}",
            image=pipeline.image,
            pull=self.settings.pull is Pull.MISSING,
            contract=pipeline.contract,
            job_folder=str(folder.path.absolute()),
            entrypoint=pipeline.entrypoint or (),
            command=pipeline.command or (),
            environment={**_identity(pipeline), **{name: str(value) for name, value in pipeline.environment.items()}},
            time_limit=pipeline.time_limit,
            user=user,
            user_namespace=_user_namespace(engine.kind, user, own),
            network=network if isinstance(network, str) else "" if network else "none",
            read_only=pipeline.read_only,
            memory=pipeline.memory,
            shared_memory=pipeline.shared_memory,
            cpus=pipeline.cpus,
            pids=pipeline.pids,
            options=pipeline.options,
            gpus=self.settings.gpus,
            gpu_folder=str(self._gpu_folder.absolute()),
        )

    def status(self, job: Job) -> PlatformStatus:
        """Return the status, with the digest of the image, and the reason if the container could not run."""
        status, folder = super().status(job), self.folders.of(job.run_id)
        report = report_of(folder)
        if status.state == "running" and folder.waiting_file.exists():
            status = evolve(status, state="waiting for a GPU")
        reason = report.problem if status.finished and not status.succeeded and report.problem else status.detail
        image = f"image {report.digest}" if report.digest else ""
        gpu = f"GPU {report.gpu}" if report.gpu else ""
        return evolve(status, detail="; ".join(part for part in (reason, image, gpu) if part))

    def check_connection(self) -> str:
        """Return the version of the engine and the state of the images."""
        command = self._engine()
        engine = Engine(command)
        try:
            version = engine.version()
            missing = {one.image: None for one in self.settings.pipelines.values() if engine.image(one.image) is None}
        except EngineFailure as failure:
            raise Retriable(str(failure)) from failure
        problems = [*self.folder_problems(), *self._pipeline_problems(command.kind)]
        is_never = self.settings.pull is Pull.NEVER
        problems += [missing_image(command.kind.value, image) for image in missing if is_never or is_local(image)]
        if problems:
            raise Permanent("; ".join(problems))
        client = command.kind.value
        images = "all images are present"
        if missing:
            pulls = " && ".join(f"{client} pull {image}" for image in missing)
            images = f"not pulled yet, so that the first job pulls it: {', '.join(missing)} (`{pulls}` pulls it now)"
        return f"{client} {version}; {images}"

    def _pipeline_problems(self, kind: EngineKind) -> list[str]:
        found = {name: user_problem(kind, pipeline) for name, pipeline in sorted(self.settings.pipelines.items())}
        return [f"pipeline {name!r}: {problem}" for name, problem in found.items() if problem]

    @property
    def _gpu_folder(self) -> Path:
        return (self.settings.folder or self.context.data_folder) / "gpus"

    def _engine(self) -> EngineCommand:
        """Return the client of the engine. Raises Retriable if it is not installed."""
        kinds = [self.settings.engine] if self.settings.engine else [EngineKind.PODMAN, EngineKind.DOCKER]
        for kind in kinds:
            found = shutil.which(kind.value)
            if found is not None:
                return EngineCommand(kind=kind, program=(found, *self.settings.engine_options))
        names = " nor ".join(kind.value for kind in kinds)
        prefix = "neither " if len(kinds) > 1 else ""
        raise Retriable(f"{prefix}{names} is on the PATH of the service: install {kinds[0].value}, or correct `engine`")


def user_problem(kind: EngineKind, pipeline: ContainerPipeline) -> str:
    """Return why a pipeline's user is not possible, or ""."""
    own = f"{os.geteuid()}:{os.getegid()}"
    if kind is EngineKind.PODMAN or os.geteuid() == 0 or pipeline.user in (None, own):
        return ""
    return (
        f"user = {pipeline.user} is not the user of the service ({own}), which could neither read nor delete the "
        "results: remove `user`, or use podman"
    )


def _identity(pipeline: ContainerPipeline) -> dict[str, str]:
    """Return variables for a user that the image does not know: libraries need a name, and a folder for caches."""
    is_known = pipeline.user is not None or os.geteuid() == 0
    return {} if is_known else {"HOME": WORK, "USER": "dicom-adapter"}


def _user_namespace(kind: EngineKind, user: str, own: str) -> str:
    """Return the value of --userns with which the user of the container is the user of the service on this machine."""
    if kind is EngineKind.DOCKER or own.startswith("0:"):
        return ""
    if user == own:
        return "keep-id"
    uid, gid = user.split(":")
    return "" if uid == "0" else f"keep-id:uid={uid},gid={gid}"  # podman's default maps the user of the service to root
