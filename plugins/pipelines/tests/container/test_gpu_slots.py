"""Slots of GPUs: one holder each, also while processes are killed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_adapter_pipelines.bounded_log import BoundedLog
from dicom_adapter_pipelines.container.gpu_slots import record_holder, take_gpu
from dicom_adapter_pipelines.job_folder import JobFolder
from dicom_adapter_pipelines.launch import Launch
from dicom_adapter_pipelines.runner.run import CommandRun
from support.container_jobs import Containers, kill_clients, kill_runner, wait_until

GPUS = ("0", "GPU-5f3a")
SHOW_GPU = 'echo "$DICOM_ADAPTER_GPU $CUDA_VISIBLE_DEVICES" > /output/gpu; '
WAITING = SHOW_GPU + "while [ ! -e /tmp/go ]; do sleep 0.05; done"


def never() -> bool:
    """Do not wait for a free GPU: the argument `keep_waiting` of `take_gpu`."""
    return False


def test_each_gpu_is_taken_once(tmp_path: Path) -> None:
    with take_gpu(tmp_path, GPUS, never) as first, take_gpu(tmp_path, GPUS, never) as second:
        assert set(GPUS) == {first.gpu, second.gpu}
        with pytest.raises(InterruptedError), take_gpu(tmp_path, GPUS, never):
            pass
    with take_gpu(tmp_path, GPUS, never) as third:
        assert "0" == third.gpu


def test_slot_remains_taken_while_a_child_process_has_it(tmp_path: Path) -> None:
    """The client of the engine outlives a killed runner."""
    with take_gpu(tmp_path, ("0",), never) as slot:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[slot.descriptor])
    with pytest.raises(InterruptedError), take_gpu(tmp_path, ("0",), never):
        pass
    child.communicate()
    with take_gpu(tmp_path, ("0",), never):
        pass


def test_name_of_a_container_remains_until_it_is_removed(tmp_path: Path) -> None:
    """Until then it may use the GPU."""
    with take_gpu(tmp_path, ("0",), never) as slot:
        record_holder(slot, "dicom-adapter-1")
    with take_gpu(tmp_path, ("0",), never) as slot:
        assert "dicom-adapter-1" == slot.previous
        record_holder(slot, "")
    with take_gpu(tmp_path, ("0",), never) as slot:
        assert "" == slot.previous


# --- with containers; the engine's client is wrapped, because this machine has no GPU


@pytest.fixture
def gpus(containers: Containers, wrapped_engine: Path) -> Containers:
    containers.settings["gpus"] = GPUS
    containers.configure(WAITING)
    return containers


@pytest.mark.podman
def test_as_many_jobs_run_as_there_are_gpus(gpus: Containers) -> None:
    assert 2 == gpus.submitter().most_running


@pytest.mark.podman
def test_running_containers_have_different_gpus(gpus: Containers, wrapped_engine: Path) -> None:
    jobs = [gpus.start(number) for number in (1, 2)]
    assert {"0 0\n", "GPU-5f3a 0\n"} == {gpus.output("gpu", job) for job in jobs}
    for gpu in GPUS:
        assert f"--device nvidia.com/gpu={gpu}" in wrapped_engine.read_text()
    assert "GPU 0" in gpus.submitter().status(jobs[0]).detail
    third = gpus.start(3)  # more than `most_running`: it waits for a GPU
    wait_until(lambda: gpus.submitter().status(third).state == "waiting for a GPU", "the wait")
    assert not (gpus.of(third).output / "gpu").exists()
    (gpus.of(jobs[0]).work / "go").touch()
    first = gpus.output("gpu", jobs[0])
    assert first == gpus.output("gpu", third)
    assert "running" == gpus.submitter().status(third).state


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Callable[[bool], CommandRun]]:
    """Return a factory of runs in `tmp_path` with a time limit of one second; they may wait for a GPU or not."""
    folder = JobFolder(tmp_path)
    folder.output.mkdir()
    folder.work.mkdir()
    log = BoundedLog(folder.log_file, 1000)

    def make(may_wait: bool) -> CommandRun:
        launch = Launch(job_id="1", arguments=("true",), environment={}, time_limit=1.0, may_wait=may_wait)
        return CommandRun(folder, launch, log)

    yield make
    log.close()


def test_the_time_of_a_run_does_not_include_its_wait_for_a_gpu(
    limited: Callable[[bool], CommandRun], tmp_path: Path
) -> None:
    """Verified to fail when the time limit is compared with the time since the start."""
    run, waiting = limited(True), JobFolder(tmp_path).waiting_file
    assert "" == run._reason_to_end(0.5)
    waiting.touch()
    assert "" == run._reason_to_end(100)
    waiting.unlink()
    assert "" == run._reason_to_end(100.4)
    assert "it has run longer than time-limit = 1 seconds" == run._reason_to_end(100.6)


def test_a_command_cannot_avoid_its_time_limit(limited: Callable[[bool], CommandRun], tmp_path: Path) -> None:
    """Only a run that may wait for a GPU is allowed to wait: a command could create the file itself."""
    JobFolder(tmp_path).waiting_file.touch()
    assert "it has run longer than time-limit = 1 seconds" == limited(False)._reason_to_end(2)


@pytest.mark.podman
def test_container_without_runner_and_client_is_removed_before_its_gpu_is_used_again(gpus: Containers) -> None:
    """Verified to fail without the removal of the slot's previous container."""
    gpus.settings["gpus"] = ("0",)
    left = gpus.start(1)
    gpus.output("gpu", left)
    kill_runner(gpus, left)
    kill_clients(gpus, left)
    next_job = gpus.start(2)
    gpus.output("gpu", next_job)
    assert [gpus.container(next_job)] == gpus.podman.names()


@pytest.mark.podman
def test_waiting_for_a_gpu_ends_with_the_cancellation(gpus: Containers) -> None:
    gpus.settings["gpus"] = ("0",)
    first, second = gpus.start(1), gpus.start(2)
    gpus.output("gpu", first)
    gpus.submitter().cancel(second)
    assert [gpus.container(first)] == gpus.podman.names()
    wait_until(lambda: not gpus.of(second).is_running, "the end of the runner")
