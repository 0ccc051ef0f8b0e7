"""`ContainerPlan` describes the container of a job. `ContainerReport`, a file of the job folder, describes its run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from attrs import asdict, field, frozen

from dicom_adapter_pipelines.contracts import Contract
from dicom_adapter_pipelines.durable_files import write_file
from dicom_adapter_pipelines.job_folder import JobFolder
from dicom_adapter_pipelines.launch import Launch


class EngineKind(str, Enum):
    """A container engine, named as its command-line client."""

    PODMAN = "podman"
    DOCKER = "docker"


@frozen(kw_only=True)
class EngineCommand:
    """The command-line client of an engine."""

    kind: EngineKind
    program: tuple[str, ...]  # absolute path of the client, and its options


@frozen(kw_only=True)
class ContainerPlan:
    """Everything that a run of a container needs. It is part of the `Launch` of the job."""

    engine: EngineCommand
    name: str  # of the container; derived from the run's id, so that a container of an interrupted run is found
    image: str
    pull: bool  # an image that is missing is pulled
    contract: Contract
    job_folder: str  # path of the JobFolder, whose files and folders are mounted
    entrypoint: tuple[str, ...] = ()  # (): that of the image
    command: tuple[str, ...] = ()  # (): that of the image, or of the manifest of a MAP
    environment: Mapping[str, str] = field(factory=dict, repr=False)  # may contain secrets
    time_limit: float | None = None  # seconds, for the contract's variables; the runner enforces it
    user: str  # <uid>:<gid> in the container
    user_namespace: str = ""  # value of --userns; "": the engine's default
    network: str = "none"  # "": the engine's default network
    read_only: bool = False  # the file system of the image is read-only
    memory: int | None = None  # bytes
    shared_memory: int | None = None  # bytes of /dev/shm
    cpus: float | None = None
    pids: int | None = None  # number of processes and threads
    options: tuple[str, ...] = ()  # further options of the engine's command `run`
    gpus: tuple[str, ...] = ()  # the run waits for a free one; (): no GPU
    gpu_folder: str = ""  # folder of the slots of the GPUs

    @property
    def folder(self) -> JobFolder:
        """The folder of the job on this machine."""
        return JobFolder(Path(self.job_folder))

    def details(self) -> Mapping[str, str]:
        """Return the plan as details of a Launch."""
        return {"container": json.dumps(asdict(self))}


def plan_of(launch: Launch) -> ContainerPlan:
    """Return the plan from the details of a Launch."""
    values = json.loads(launch.details["container"])
    engine, contract = values.pop("engine"), values.pop("contract")
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return ContainerPlan(
        **{**values, **lists},
        engine=EngineCommand(kind=EngineKind(engine["kind"]), program=tuple(engine["program"])),
        contract=Contract(contract),
    )


@frozen(kw_only=True)
class ContainerReport:
    """What the run of a container has shown besides its exit status. It contains no patient data."""

    digest: str = ""  # digest of the image: of its manifest if the engine knows it, otherwise of its configuration
    gpu: str = ""  # GPU of the container
    problem: str = ""  # why the container did not run or was ended, and the next step; "": see the exit status

    def save(self, folder: JobFolder) -> None:
        write_file(_report_file(folder), json.dumps(asdict(self), indent=1).encode())


def report_of(folder: JobFolder) -> ContainerReport:
    """Read what `save` wrote; an empty report if there is nothing."""
    try:
        return ContainerReport(**json.loads(_report_file(folder).read_bytes()))
    except FileNotFoundError:
        return ContainerReport()


def _report_file(folder: JobFolder) -> Path:
    return folder.path / "container-report.json"
