"""`check --connect`, and jobs while the engine is missing or does not run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import Permanent, Retriable
from dicom_adapter_pipelines.container.plan import ContainerPlan, EngineKind
from dicom_adapter_pipelines.container.settings import ContainerPipeline, Pull
from dicom_adapter_pipelines.container.submitter import user_problem
from support.container_jobs import Containers
from support.podman import BASE

Client = Callable[[str, str], Path]
MakePlan = Callable[..., ContainerPlan]


@pytest.fixture
def without_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Empty PATH. Return a function that puts a program with this name and shell script on PATH."""
    folder = tmp_path / "only"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def client(name: str, script: str) -> Path:
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return client


@pytest.mark.podman
def test_check_names_engine_version_and_images(containers: Containers) -> None:
    containers.configure("true")
    version = containers.podman.run("version", "--format", "{{.Client.Version}}").stdout.strip()
    assert f"podman {version}; all images are present" == containers.submitter().check_connection()


@pytest.mark.podman
def test_check_names_images_that_are_not_present(containers: Containers) -> None:
    containers.configure(image="registry.example/lung:2")
    with pytest.raises(Permanent, match=r"lung:2' is missing: run `podman pull registry.example/lung:2`"):
        containers.submitter().check_connection()
    containers.settings["pull"] = Pull.MISSING
    expected = (
        "not pulled yet, so that the first job pulls it: registry.example/lung:2 (`podman pull registry.example/lung"
    )
    assert expected in containers.submitter().check_connection()


@pytest.mark.parametrize("pull", Pull, ids=lambda pull: pull.value)
def test_an_image_of_this_machine_that_is_missing_is_a_problem(
    unstarted: Containers, without_engine: Client, pull: Pull
) -> None:
    """No job could pull it. Verified to fail when only the setting `pull` decides."""
    without_engine("podman", 'case "$*" in *version*) echo 5.0;; *) echo "Error: image not known" >&2; exit 125;; esac')
    unstarted.configure(image="localhost/lung:2")
    unstarted.settings["pull"] = pull
    step = r"image 'localhost/lung:2' is missing, .* build it \(`podman build --tag localhost/lung:2 FOLDER`\)"
    with pytest.raises(Permanent, match=step):
        unstarted.submitter().check_connection()


def test_missing_engine_is_named(unstarted: Containers, without_engine: Client) -> None:
    with pytest.raises(Retriable, match="neither podman nor docker is on the PATH of the service: install podman"):
        unstarted.submitter().check_connection()
    unstarted.settings["engine"] = EngineKind.DOCKER
    with pytest.raises(Retriable, match="docker is on the PATH of the service: install docker"):
        unstarted.submitter().check_connection()


def test_docker_is_used_where_podman_is_missing(unstarted: Containers, without_engine: Client) -> None:
    without_engine("docker", 'case "$*" in *version*) echo 28.1;; *) echo "[{\\"Id\\": \\"sha256:1\\"}]";; esac')
    assert "docker 28.1; all images are present" == unstarted.submitter().check_connection()


@pytest.mark.parametrize(
    "words",
    [
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "failed to connect to the docker API at unix:///var/run/docker.sock; check if the daemon is running",
        "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
    ],
    ids=["not running", "not running, newer words", "not in the group"],
)
def test_jobs_wait_for_an_engine_that_does_not_run(unstarted: Containers, without_engine: Client, words: str) -> None:
    """The words are the messages of different versions of docker."""
    without_engine("docker", f"echo '{words}' >&2; exit 1")
    step = r"docker is not usable \(.* connect .*\): start it \(`systemctl start docker`\), and put the user"
    with pytest.raises(Retriable, match=step):
        unstarted.submitter().create_job(unstarted.job(1))
    with pytest.raises(Retriable, match=step):
        unstarted.submitter().check_connection()


@pytest.fixture
def service_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service does not run as root."""
    monkeypatch.setattr("os.geteuid", lambda: 990)
    monkeypatch.setattr("os.getegid", lambda: 991)


@pytest.mark.usefixtures("service_user")
def test_other_user_needs_root_or_podman() -> None:
    """Files of another user can neither be read nor deleted by a service that is not root."""
    other, own = (ContainerPipeline(image=BASE, user=user) for user in ("1000:1000", "990:991"))
    assert "remove `user`, or use podman" in user_problem(EngineKind.DOCKER, other)
    assert "" == user_problem(EngineKind.DOCKER, own)
    assert "" == user_problem(EngineKind.PODMAN, other)


@pytest.mark.usefixtures("service_user")
def test_podman_maps_the_user_of_the_service(podman_plan: MakePlan) -> None:
    """Then the results belong to the user of the service, whatever the user in the container is."""
    expected = {None: "keep-id", "990:991": "keep-id", "1000:1001": "keep-id:uid=1000,gid=1001", "0:0": ""}
    assert expected == {user: podman_plan(user=user).user_namespace for user in expected}


@pytest.mark.usefixtures("service_user")
def test_user_that_the_image_does_not_know_has_a_home(podman_plan: MakePlan) -> None:
    """Otherwise libraries write their caches to `/`, and fail."""
    assert {"HOME": "/tmp", "USER": "dicom-adapter"} == podman_plan().environment
    assert {} == podman_plan(user="1000:1000").environment
    assert "/data" == podman_plan(environment={"HOME": "/data"}).environment["HOME"]


@pytest.fixture
def podman_plan(unstarted: Containers, without_engine: Client) -> MakePlan:
    """Return a function that makes a plan with settings of the pipeline."""
    without_engine("podman", "exit 1")

    def make(**settings: Any) -> ContainerPlan:
        submitter, job = unstarted.submitter(), unstarted.job(1)
        pipeline = ContainerPipeline(image=BASE, **settings)
        return submitter.make_plan(job, submitter.folders.of(job.run_id), pipeline)

    return make
