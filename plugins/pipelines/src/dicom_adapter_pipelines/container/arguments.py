"""The arguments of `podman run` and `docker run` for a job. Pure functions of the plan, the image and the GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attrs import field, frozen

from dicom_adapter_pipelines.container.engine import Image
from dicom_adapter_pipelines.container.map_manifest import MapManifest
from dicom_adapter_pipelines.container.places import CONTAINER_PLACES
from dicom_adapter_pipelines.container.plan import ContainerPlan, EngineKind
from dicom_adapter_pipelines.contracts import Contract, environment

GPU_LABEL = "dicom-adapter.gpu"
DOCKER_PIDS = 2048  # the default of podman; docker has no limit of its own
# Variables that the client of an engine reads itself. Their values for the container are on its command line, which
# other users of the machine can read; all other values are passed in the environment of the client.
READ_BY_CLIENTS = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|TMPDIR|LANG|NOTIFY_SOCKET|_.*|LC_.*|LD_.*|LISTEN_.*|XDG_.*|DBUS_.*|GO.*|SSL_.*|"
    "CONTAINERS?_.*|DOCKER_.*|BUILDKIT_.*|PODMAN_.*|STORAGE_.*|REGISTRY_AUTH_FILE|.*_PROXY",
    re.IGNORECASE,
)


@frozen(kw_only=True)
class EngineCall:
    """A call of an engine's client."""

    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(repr=False)  # additional environment of the client; may contain secrets


def run_container(plan: ContainerPlan, image: Image, manifest: MapManifest | None, gpu: str) -> EngineCall:
    """Return the call that runs the container of a job in the foreground. `gpu` is "" without GPU."""
    places = CONTAINER_PLACES[plan.contract] if manifest is None else manifest.places
    variables = dict(environment(plan.contract, places, plan.time_limit))
    entrypoint, command = plan.entrypoint, plan.command
    if manifest is not None:
        variables |= {"HOLOSCAN_WORKDIR": manifest.folder, "MONAI_WORKDIR": manifest.folder}
        variables = {**manifest.environment, **variables}
        command = command or manifest.command
    if gpu:
        # The engine shows the container only this GPU, so its number is 0 there.
        variables |= {"CUDA_VISIBLE_DEVICES": "0", "DICOM_ADAPTER_GPU": gpu}
    variables |= {name: places.fill(value) for name, value in plan.environment.items()}
    command = tuple(places.fill(word) for word in command)
    if plan.contract is Contract.MAP and not entrypoint:
        entrypoint, command = command[:1], command[1:]  # the image's own entry script hides the exit status
    hidden = {name: value for name, value in variables.items() if not READ_BY_CLIENTS.fullmatch(name)}
    shown = {name: value for name, value in variables.items() if name not in hidden}
    folder = plan.folder
    arguments = (
        *plan.engine.program,
        "run",
        *("--name", plan.name, "--pull", "never", "--log-driver", "none"),
        *("--stop-timeout", "0"),  # the runner has sent SIGTERM and has waited, before a container is removed
        *_isolation(plan),
        *_limits(plan),
        *_gpu(plan.engine.kind, gpu),
        *("--volume", f"{folder.input}:{places.input}:ro,Z"),
        *("--volume", f"{folder.manifest}:{places.job}:ro,Z"),
        *("--volume", f"{folder.output}:{places.output}:Z"),
        *("--volume", f"{folder.work}:{places.work}:Z"),
        *(() if manifest is None else ("--workdir", manifest.folder)),
        *(word for name in hidden for word in ("--env", name)),
        *(word for name, value in shown.items() for word in ("--env", f"{name}={value}")),
        *plan.options,
        *(("--entrypoint", entrypoint[0]) if entrypoint else ()),
        image.id,
        *entrypoint[1:],
        *command,
    )
    return EngineCall(arguments=arguments, variables=hidden)


def _isolation(plan: ContainerPlan) -> Iterator[str]:
    """Yield the options that separate the container from the machine."""
    yield from ("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", plan.user)
    if plan.network:
        yield from ("--network", plan.network)
    if plan.user_namespace:
        yield from ("--userns", plan.user_namespace)
    if plan.read_only:
        yield "--read-only"


def _limits(plan: ContainerPlan) -> Iterator[str]:
    if plan.memory is not None:
        yield from ("--memory", str(plan.memory), "--memory-swap", str(plan.memory))  # both: no swap in addition
    if plan.shared_memory is not None:
        yield from ("--shm-size", str(plan.shared_memory))
    if plan.cpus is not None:
        yield from ("--cpus", f"{plan.cpus:g}")
    pids = DOCKER_PIDS if plan.pids is None and plan.engine.kind is EngineKind.DOCKER else plan.pids
    if pids is not None:
        yield from ("--pids-limit", str(pids))


def _gpu(kind: EngineKind, gpu: str) -> tuple[str, ...]:
    if not gpu:
        return ()
    label = ("--label", f"{GPU_LABEL}={gpu}")
    if kind is EngineKind.DOCKER:
        return (*label, "--gpus", f"device={gpu}")
    return (*label, "--device", f"nvidia.com/gpu={gpu}")
