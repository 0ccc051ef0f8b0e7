"""The arguments of `podman run` and `docker run`, as pure functions of plan, image, manifest and GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter_pipelines.container.arguments import EngineCall, run_container
from dicom_adapter_pipelines.container.engine import Image
from dicom_adapter_pipelines.container.map_manifest import MapManifest, parse_manifest
from dicom_adapter_pipelines.container.plan import ContainerPlan, EngineCommand, EngineKind, plan_of
from dicom_adapter_pipelines.contracts import Contract
from dicom_adapter_pipelines.launch import Launch

PODMAN = EngineCommand(kind=EngineKind.PODMAN, program=("/usr/bin/podman", "--root", "/data"))
DOCKER = EngineCommand(kind=EngineKind.DOCKER, program=("/usr/bin/docker",))
ENGINES = pytest.mark.parametrize("engine", [PODMAN, DOCKER], ids=["podman", "docker"])
IMAGE = Image(id="4a5b", digest="sha256:6c7d")


def plan(**changes: Any) -> ContainerPlan:
    values: dict[str, Any] = {
        "engine": PODMAN,
        "name": "dicom-adapter-1",
        "image": "lung:1",
        "pull": True,
        "contract": Contract.PLAIN,
        "job_folder": "/jobs/1",
        "user": "990:991",
    }
    return ContainerPlan(**{**values, **changes})


def call(gpu: str = "", manifest: MapManifest | None = None, **changes: Any) -> EngineCall:
    return run_container(plan(**changes), IMAGE, manifest, gpu)


def options(arguments: tuple[str, ...], name: str) -> list[str]:
    """Return the values of an option before the image."""
    before = arguments[: arguments.index(IMAGE.id)]
    return [before[place + 1] for place, word in enumerate(before) if word == name]


def words(called: EngineCall) -> tuple[str, ...]:
    """Return the arguments after the image."""
    return called.arguments[called.arguments.index(IMAGE.id) + 1 :]


@ENGINES
def test_container_is_isolated_by_default(engine: EngineCommand) -> None:
    arguments = call(engine=engine).arguments
    assert (*engine.program, "run", "--name", "dicom-adapter-1") == arguments[: len(engine.program) + 3]
    expected = {
        "--network": "none",
        "--cap-drop": "ALL",
        "--security-opt": "no-new-privileges",
        "--user": "990:991",
        "--pull": "never",
        "--log-driver": "none",
    }
    assert {name: [value] for name, value in expected.items()} == {name: options(arguments, name) for name in expected}
    assert "--privileged" not in arguments
    assert [
        "/jobs/1/input:/input:ro,Z",
        "/jobs/1/job.json:/job.json:ro,Z",
        "/jobs/1/output:/output:Z",
        "/jobs/1/work:/tmp:Z",
    ] == options(arguments, "--volume")


def test_image_is_named_by_its_id() -> None:
    """A name may mean another image after its digest was recorded."""
    arguments = call(command=("run",)).arguments
    assert (IMAGE.id, "run") == arguments[-2:]
    assert "lung:1" not in arguments


def test_limits_are_options_only_if_configured() -> None:
    assert () == tuple(option for option in call().arguments if option in ("--memory", "--cpus", "--pids-limit"))
    limited = call(memory=1000, cpus=1.5, pids=7, shared_memory=10, read_only=True, network="").arguments
    expected = {"--memory": "1000", "--memory-swap": "1000", "--cpus": "1.5", "--pids-limit": "7", "--shm-size": "10"}
    assert {name: [value] for name, value in expected.items()} == {name: options(limited, name) for name in expected}
    assert "--read-only" in limited
    assert [] == options(limited, "--network")


def test_docker_gets_the_limit_of_processes_that_podman_has() -> None:
    assert ["2048"] == options(call(engine=DOCKER).arguments, "--pids-limit")


@pytest.mark.parametrize(
    ("engine", "expected"),
    [(PODMAN, ("--device", "nvidia.com/gpu=1")), (DOCKER, ("--gpus", "device=1"))],
    ids=["podman", "docker"],
)
def test_container_gets_its_gpu_only(engine: EngineCommand, expected: tuple[str, str]) -> None:
    """The engine renumbers: the only GPU of a container is number 0 there."""
    with_gpu, without = call(engine=engine, gpu="1"), call(engine=engine)
    name, value = expected
    assert [value] == options(with_gpu.arguments, name)
    assert ["dicom-adapter.gpu=1"] == options(with_gpu.arguments, "--label")
    assert ("0", "1") == (with_gpu.variables["CUDA_VISIBLE_DEVICES"], with_gpu.variables["DICOM_ADAPTER_GPU"])
    assert [] == options(without.arguments, name)
    assert "CUDA_VISIBLE_DEVICES" not in without.variables


@ENGINES
def test_values_of_variables_are_not_arguments(engine: EngineCommand) -> None:
    """Exceptions are the variables that the engine's client reads itself."""
    called = call(engine=engine, environment={"TOKEN": "s3cret", "PATH": "/opt/bin", "DOCKER_HOST": "tcp://x"})
    assert "s3cret" not in " ".join(called.arguments)
    assert "s3cret" == called.variables["TOKEN"]
    given = options(called.arguments, "--env")
    assert {"TOKEN", "DICOM_ADAPTER_INPUT", "PATH=/opt/bin", "DOCKER_HOST=tcp://x"} <= set(given)
    assert not {"PATH", "DOCKER_HOST"} & set(called.variables)


def test_places_are_filled_in_arguments_and_variables() -> None:
    called = call(command=("run", "{input}", "{output}", "{job}", "{work}", "{x}"), environment={"A": "{output}/a"})
    assert ("run", "/input", "/output", "/job.json", "/tmp", "{x}") == words(called)
    assert "/output/a" == called.variables["A"]


def test_entrypoint_is_a_program_and_first_arguments() -> None:
    called = call(entrypoint=("python", "-u"), command=("app.py",))
    assert ["python"] == options(called.arguments, "--entrypoint")
    assert ("-u", "app.py") == words(called)


def test_further_options_precede_the_image() -> None:
    called = call(options=("--volume", "/models:/models:ro"))
    assert "/models:/models:ro" in options(called.arguments, "--volume")


def test_user_namespace_is_an_option() -> None:
    assert ["keep-id"] == options(call(user_namespace="keep-id").arguments, "--userns")


def test_mercure_module_has_its_own_paths_and_variables() -> None:
    called = call(contract=Contract.MERCURE)
    assert {"/jobs/1/input:/tmp/data:ro,Z", "/jobs/1/output:/tmp/output:Z"} < set(options(called.arguments, "--volume"))
    assert ("/tmp/data", "/tmp/output") == tuple(called.variables[f"MERCURE_{name}_DIR"] for name in ("IN", "OUT"))


# --- MAP

MANIFEST = parse_manifest(
    "/etc/holoscan/app.json",
    b'{"command": "[\\"python3\\", \\"/opt/app\\"]", "environment": {"A": "of the image", "B": "of the image"},'
    b' "workingDirectory": "/var/holoscan", "input": {"path": "in"}, "output": {"path": "/data/out"}}',
)


def test_map_runs_the_command_of_its_manifest() -> None:
    """The image's own entry script would hide the exit status."""
    called = call(contract=Contract.MAP, manifest=MANIFEST, environment={"B": "{input}"})
    assert ["python3"] == options(called.arguments, "--entrypoint")
    assert ("/opt/app",) == words(called)
    assert ["/var/holoscan"] == options(called.arguments, "--workdir")
    assert {"/jobs/1/input:/var/holoscan/in:ro,Z", "/jobs/1/output:/data/out:Z"} < set(
        options(called.arguments, "--volume")
    )
    expected = {
        "A": "of the image",
        "B": "/var/holoscan/in",
        "HOLOSCAN_INPUT_PATH": "/var/holoscan/in",
        "HOLOSCAN_OUTPUT_PATH": "/data/out",
        "HOLOSCAN_WORKDIR": "/var/holoscan",
        "MONAI_INPUTPATH": "/var/holoscan/in",
    }
    assert expected.items() <= called.variables.items()


def test_command_of_a_map_can_be_replaced() -> None:
    called = call(contract=Contract.MAP, manifest=MANIFEST, command=("/bin/other", "{input}"))
    assert ["/bin/other"] == options(called.arguments, "--entrypoint")
    assert ("/var/holoscan/in",) == words(called)


def test_plan_is_read_as_it_was_written() -> None:
    written = plan(gpus=("0", "1"), environment={"A": "b"}, command=("a", "b"), memory=1, cpus=1.5, engine=DOCKER)
    launch = Launch(job_id="1", arguments=("a",), environment={}, details=written.details())
    assert written == plan_of(launch)
    assert Path("/jobs/1") == written.folder.path


@pytest.mark.skipif(shutil.which("docker") is None, reason="the client of docker is not installed")
def test_client_of_docker_accepts_all_options() -> None:
    """It checks its arguments before it connects to the daemon, which is not needed here."""
    docker = EngineCommand(kind=EngineKind.DOCKER, program=("docker", "--host", "unix:///nowhere/docker.sock"))
    called = call(
        "0",
        MANIFEST,
        engine=docker,
        contract=Contract.MAP,
        memory=1 << 30,
        shared_memory=1 << 20,
        cpus=1.5,
        read_only=True,
    )
    environment = {**os.environ, **called.variables}
    done = subprocess.run(called.arguments, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "connect to the Docker daemon" in done.stderr, done.stderr
