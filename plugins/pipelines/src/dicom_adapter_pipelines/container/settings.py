"""The settings of the submitter `container`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from attrs import Attribute, frozen

from dicom_adapter import ByteSize, at_least, not_empty, setting
from dicom_adapter_pipelines.container.plan import EngineKind
from dicom_adapter_pipelines.settings import JobFolderSettings, PipelineSettings, gpu_names

USER = re.compile(r"[0-9]{1,9}:[0-9]{1,9}")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")


class Pull(str, Enum):
    """The treatment of an image that the engine does not have."""

    MISSING = "missing"  # the first job that needs it pulls it
    NEVER = "never"  # the job is faulted


# The first line of a validator's docstring is shown as the rule in the reference of the settings.
def image_name(_instance: Any, _attribute: Attribute[Any], value: str) -> None:
    """name of an image, as in `podman run`

    Validate that a text cannot be an option of the engine's client.
    """
    if IMAGE.fullmatch(value) is None:
        raise ValueError("must be the name of an image, such as registry.example/lung:1.2")


def numeric_user(_instance: Any, _attribute: Attribute[Any], value: str | None) -> None:
    """`<uid>:<gid>`"""

    if value is not None and USER.fullmatch(value) is None:
        raise ValueError('must be "<uid>:<gid>" with two numbers, such as "1000:1000"')


def words(_instance: Any, _attribute: Attribute[Any], value: tuple[str, ...] | None) -> None:
    """not empty

    Validate that a list has a first word, and no NUL, which no argument of a process can contain.
    """
    if value is not None and (not value or not value[0]):
        raise ValueError("must begin with a program; omit it to use that of the image")
    if any("\0" in word for word in value or ()):
        raise ValueError("must not contain a NUL character")


@frozen(kw_only=True)
class ContainerPipeline(PipelineSettings):
    """[submitters.<name>.pipelines.<pipeline id>] of a submitter `container`."""

    image: str = setting(
        validator=image_name, help="Name of the image. A name with a digest (`@sha256:…`) always means the same image."
    )
    command: tuple[str, ...] | None = setting(
        default=None,
        validator=words,
        help=(
            "Arguments of the image's entry point, or the command if it has none; default: those of the image. With "
            '`contract = "map"`: the command, instead of that in the image\'s `app.json`. `{input}`, `{output}`, '
            "`{job}` and `{work}` are replaced by the paths in the container."
        ),
    )
    entrypoint: tuple[str, ...] | None = setting(
        default=None, validator=words, help="Program and first arguments, instead of the entry point of the image."
    )
    user: str | None = setting(
        default=None,
        validator=numeric_user,
        help=(
            "User and group of the container's process. Default: those of the service. With docker, others are "
            "possible only if the service runs as root."
        ),
    )
    network: bool | str = setting(
        default=False,
        help=(
            "`false`: the container has no network. `true`: it has the engine's default network. A text: it has the "
            "network with this name."
        ),
    )
    read_only: bool = setting(
        default=False, help="If true, the container can write only to its output folder and to `/tmp`."
    )
    memory: ByteSize | None = setting(
        default=None,
        validator=at_least(1 << 20, "bytes"),
        help='Limit of the memory of the container, such as `"16 GB"`; it gets no swap.',
    )
    shared_memory: ByteSize | None = setting(
        default=None,
        validator=at_least(1 << 10, "bytes"),
        help="Size of `/dev/shm`, which PyTorch's data loaders use; default: that of the engine (64 MB).",
    )
    cpus: float | None = setting(
        default=None, validator=at_least(0.01), help="Number of CPUs that the container may use."
    )
    pids: int | None = setting(
        default=None,
        validator=at_least(1),
        help="Number of processes and threads that the container may have; default: 2048.",
    )
    options: tuple[str, ...] = setting(
        default=(),
        help=(
            'Further options of the engine\'s command `run`, such as `["--volume", "/models:/models:ro"]`. They can '
            "undo the isolation of the container."
        ),
    )


@frozen(kw_only=True)
class ContainerSettings(JobFolderSettings):
    """[submitters.<name>] with `type = "container"`."""

    engine: EngineKind | None = setting(
        default=None, help="`podman` or `docker`; default: the first of them that is installed."
    )
    engine_options: tuple[str, ...] = setting(
        default=(),
        help='Options of the engine\'s client before the command, such as `["--host", "unix:///run/docker.sock"]`.',
    )
    pull: Pull = setting(
        default=Pull.MISSING,
        help=(
            "Treatment of an image that the engine does not have. `missing`: the first job that needs the image pulls "
            "it, within the job's `time-limit`. `never`: the job is faulted."
        ),
    )
    gpus: tuple[str, ...] = setting(
        default=(),
        validator=gpu_names,
        help=(
            "NVIDIA GPUs for the containers, by number or UUID. Each job has one of them for itself, so as many jobs "
            "run at the same time as there are GPUs. List a GPU at one submitter only. Default: containers have no "
            "GPU, and one job runs at a time unless `running` is set."
        ),
    )
    pipelines: Mapping[str, ContainerPipeline] = setting(
        validator=not_empty, help="The pipelines by id: the tables `[submitters.<name>.pipelines.<pipeline id>]`."
    )
