"""A container pipeline in a real service: from received instances to the end of the container, also after a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_adapter import Job, JobState
from dicom_adapter.cli import app
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from dicom_adapter_pipelines.job_folder import JobFolder
from support import jobs_in_ledger, send, write_study
from support.container_jobs import wait_until
from support.podman import BASE, Podman

pytestmark = [pytest.mark.podman, pytest.mark.slow]

# The container counts its input, then waits for a file in the folder of the job.
SCRIPT = """
find /input -name '*.dcm' | wc -l > /output/count
while [ ! -e /tmp/go ]; do sleep 0.05; done
"""
CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.gpu]
type = "container"
engine = "podman"
engine-options = {options}
pull = "never"
status-every = 0.2
folder = "jobs"

[submitters.gpu.pipelines.lung]
image = "{image}"
command = ["/bin/sh", "-c", {script}]

[ae-titles.LUNG.settings]
pipeline-lung = "lung"
"""


def configuration(podman: Podman, image: str = BASE, further: str = "") -> str:
    """Return the configuration, with `further` keys of the submitter."""
    text = CONFIGURATION.format(options=json.dumps(podman.options), image=image, script=json.dumps(SCRIPT))
    return text.replace('folder = "jobs"', f'folder = "jobs"\n{further}')


def folders_of_running(service: LaunchedService) -> list[JobFolder]:
    """Wait for the first container, and return the folders of all jobs whose containers were started."""
    jobs = service.configuration.parent / "jobs" / "jobs"
    counts = wait_until(lambda: [path for path in jobs.glob("*/output/count") if path.read_text()], "a container")
    return [JobFolder(path.parents[1]) for path in counts]


def ended(service: LaunchedService, jobs: int = 1) -> list[Job]:
    """Wait for the end of this number of jobs, and return them."""

    def find() -> list[Job]:
        return [job for job in jobs_in_ledger(service) if job.state in (JobState.SUCCEEDED, JobState.FAILED)]

    wait_until(lambda: len(find()) >= jobs, f"the end of {jobs} jobs")
    return find()


def test_container_of_a_killed_service_runs_once_and_its_end_is_recorded(
    launch_service: LaunchService, podman: Podman, tmp_path: Path
) -> None:
    """All processes of the service are killed while the container runs."""
    first = launch_service(configuration(podman))
    send(write_study(tmp_path / "study", instances=3), first, "LUNG")
    (folder,) = folders_of_running(first)
    assert "3\n" == (folder.output / "count").read_text()
    first.wait_for("job_submitted")
    first.kill()
    second = launch_service(configuration(podman))
    (folder.work / "go").touch()
    (job,) = ended(second)
    digest = podman.run("image", "inspect", "--format", "{{.Digest}}", BASE).stdout.strip()
    assert (JobState.SUCCEEDED, f"image {digest}") == (job.state, job.platform_detail)
    outcome = folder.outcome()
    assert outcome is not None
    assert 1 == outcome.attempt
    assert [] == podman.names()


def test_jobs_wait_for_a_free_gpu(
    launch_service: LaunchService, podman: Podman, wrapped_engine: Path, tmp_path: Path
) -> None:
    service = launch_service(configuration(podman, further='gpus = ["0"]'))
    for name in ("one", "two"):
        send(write_study(tmp_path / name, patient_id=name), service, "LUNG")
    service.wait_for("job_queued", times=2)
    (first,) = folders_of_running(service)
    service.wait_for("job_uploaded", times=2)
    assert [first.path.name] == [name.removeprefix("dicom-adapter-") for name in podman.names()]
    (first.work / "go").touch()
    ended(service, 1)
    second = wait_until(
        lambda: next((folder for folder in folders_of_running(service) if folder.path != first.path), None),
        "the second container",
    )
    (second.work / "go").touch()
    assert {JobState.SUCCEEDED} == {job.state for job in ended(service, 2)}


def test_check_connects_to_the_engine_and_finds_the_images(podman: Podman, tmp_path: Path) -> None:
    file = tmp_path / "adapter.toml"
    for image, status, words in (
        (BASE, 0, "all images are present"),
        ("localhost/none", 1, "podman build --tag localhost/none"),
    ):
        file.write_text(configuration(podman, image))
        result = CliRunner().invoke(app, ["check", "--connect", str(file)], env={"COLUMNS": "300"})
        assert (status, True) == (result.exit_code, words in result.output), result.output
