"""The submitter `command`: runs a command of this machine for each job."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Attribute, frozen

from dicom_adapter import ByteSize, Job, Permanent, Retriable, SubmitterContext, at_least, setting
from dicom_adapter_pipelines import contracts
from dicom_adapter_pipelines.contracts import JobPlaces
from dicom_adapter_pipelines.job_folder import JobFolder
from dicom_adapter_pipelines.launch import Launch
from dicom_adapter_pipelines.settings import MIB, JobFolderSettings, PipelineSettings, gpu_names
from dicom_adapter_pipelines.submitter import JobFolderSubmitter, limits_of
from dicom_adapter_pipelines.users import check_user, unreachable_for

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
GPU_DETAIL = "gpu"  # key of `Launch.details`
INHERITED = ("PATH", "LANG", "HOME", "TZ")


# The first line of a validator's docstring is shown as the rule in the reference of the settings.
def command_words(_instance: Any, _attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    """a program and its arguments

    Validate that a command has a program, and no NUL, which no argument of a process can contain.
    """
    if not value or not value[0]:
        raise ValueError('must begin with a program, such as ["/opt/lung/run", "{input}", "{output}"]')
    if "/" in value[0] and value[0][0] not in "/{":
        raise ValueError("must begin with an absolute path, or the name of a program on the PATH")
    if any("\0" in word for word in value):
        raise ValueError("must not contain a NUL character")


@frozen(kw_only=True)
class CommandPipeline(PipelineSettings):
    """[submitters.<name>.pipelines.<pipeline id>] of a submitter `command`."""

    command: tuple[str, ...] = setting(
        validator=command_words,
        help=(
            "Program and arguments. No shell reads them. `{input}`, `{output}`, `{job}` and `{work}` are replaced by "
            "the paths of the job."
        ),
    )
    inherit_environment: tuple[str, ...] = setting(
        default=INHERITED, help="Names of the environment variables of the service that the command inherits."
    )
    user: str = setting(
        default="",
        help=(
            "User that runs the command, by name or number; the service must run as root. "
            "Default: the user of the service."
        ),
    )
    memory: ByteSize | None = setting(
        default=None, validator=at_least(MIB), help="Limit of the address space of each process (`RLIMIT_AS`)."
    )
    cpu_seconds: int | None = setting(
        default=None, validator=at_least(1), help="Limit of the CPU time of each process (`RLIMIT_CPU`)."
    )


@frozen(kw_only=True)
class CommandSettings(JobFolderSettings):
    """The [submitters.<name>] table of `type = "command"`."""

    gpus: tuple[str, ...] = setting(
        default=(),
        validator=gpu_names,
        help=(
            "GPUs for the commands, by number or UUID. Each job has one of them for itself, in `CUDA_VISIBLE_DEVICES`, "
            "so as many jobs run at the same time as there are GPUs. List a GPU at one submitter only. Default: a "
            "command may use all GPUs, and one job runs at a time unless `running` is set."
        ),
    )
    pipelines: Mapping[str, CommandPipeline] = setting(
        help="The pipelines by their ids: tables `[submitters.<name>.pipelines.<pipeline id>]`."
    )


class CommandSubmitter(JobFolderSubmitter[CommandSettings]):
    """Runs a command for each job; see `JobFolderSubmitter`."""

    name = "command"

    def __init__(self, settings: CommandSettings, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        if settings.gpus:
            self.most_running = len(settings.gpus)

    @property
    def pipelines(self) -> Mapping[str, CommandPipeline]:
        return self.settings.pipelines

    def command_user(self, pipeline: PipelineSettings) -> str:
        assert isinstance(pipeline, CommandPipeline)
        return pipeline.user

    def make_launch(self, job: Job, folder: JobFolder, pipeline: PipelineSettings) -> Launch:
        assert isinstance(pipeline, CommandPipeline)
        places, gpu = places_of(folder), self._free_gpu()
        return Launch(
            job_id=job.job_id,
            arguments=tuple(places.fill(word) for word in pipeline.command),
            environment={**_environment(pipeline, places), **({GPU_VARIABLE: gpu} if gpu else {})},
            user=pipeline.user,
            memory=pipeline.memory,
            cpu_seconds=pipeline.cpu_seconds,
            details={GPU_DETAIL: gpu},
            **limits_of(pipeline),
        )

    def _free_gpu(self) -> str:
        """Return a GPU that no unfinished job uses; "" if no GPUs are configured. Raises Retriable if all are used."""
        if not self.settings.gpus:
            return ""
        launches = [folder.launch() for folder in self.folders.unfinished()]
        taken = {launch.details.get(GPU_DETAIL) for launch in launches if launch is not None}
        free = [gpu for gpu in self.settings.gpus if gpu not in taken]
        if not free:
            raise Retriable(f"all GPUs are in use by other jobs ({', '.join(self.settings.gpus)})")
        return free[0]

    def check_connection(self) -> str:
        if not self.pipelines:
            raise Permanent(f"no pipeline is configured: add [submitters.{self.context.name}.pipelines.<pipeline id>]")
        problems = [*self.folder_problems(), *self._pipeline_problems()]
        if problems:
            raise Permanent("; ".join(problems))
        return f"commands are found: {', '.join(sorted(self.pipelines))}; jobs are in {self.folders.path}"

    def _pipeline_problems(self) -> list[str]:
        return [
            f"pipeline {name!r}: {problem}"
            for name, pipeline in sorted(self.pipelines.items())
            if (problem := _problem(pipeline, self.folders.path))
        ]


def places_of(folder: JobFolder) -> JobPlaces:
    """Return the paths of a job on this machine."""
    return JobPlaces(
        input=str(folder.input), output=str(folder.output), job=str(folder.manifest), work=str(folder.work)
    )


def _environment(pipeline: CommandPipeline, places: JobPlaces) -> dict[str, str]:
    """Return the whole environment of the command: inherited variables, then those of the contract, then configured."""
    inherited = {name: os.environ[name] for name in pipeline.inherit_environment if name in os.environ}
    of_contract = contracts.environment(pipeline.contract, places, pipeline.time_limit)
    configured = {name: places.fill(str(value)) for name, value in pipeline.environment.items()}
    if pipeline.user:
        inherited["HOME"] = check_user(pipeline.user).pw_dir
    identity = {contracts.JOB_VARIABLE: places.job}  # a runner finds the processes of the job by this variable
    return {"TMPDIR": places.work, **inherited, **of_contract, **configured, **identity}


def _problem(pipeline: CommandPipeline, folder: Path) -> str:
    """Return why a pipeline cannot run, and the next step; "" if nothing is wrong."""
    program = pipeline.command[0]
    path = pipeline.environment.get("PATH", os.environ.get("PATH") if "PATH" in pipeline.inherit_environment else None)
    if "{" not in program and shutil.which(program, path=None if path is None else str(path)) is None:
        return f"the command {program!r} is not found or not executable: install it, or correct `command`"
    if not pipeline.user:
        return ""
    try:
        check_user(pipeline.user)
    except Permanent as refusal:
        return str(refusal)
    barrier = unreachable_for(pipeline.user, folder.parent)
    if barrier is not None:
        return f"user {pipeline.user!r} cannot enter {barrier}: set `folder` to a folder that this user can reach"
    return ""
