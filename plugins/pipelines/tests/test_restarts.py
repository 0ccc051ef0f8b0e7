"""A command runs once, even if the service is killed; after a power loss it runs again, at most `reruns` times."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial

import pytest

from dicom_adapter import Job
from dicom_adapter_pipelines.outcome import load_attempts
from dicom_adapter_pipelines.runner import start_runner
from support.command_jobs import Pipelines, alive, shell, wait_until

# Notes its run, its runner and a child process, then waits for the file `release`.
NOTED = """
echo x >> "$0/runs-$(basename "$(dirname "$1")")"; echo $PPID > "$4/runner"
(trap "" TERM; while :; do sleep 1; done) & echo $! > "$4/child.part"; mv "$4/child.part" "$4/child"
until [ -e "$0/release" ]; do sleep 0.02; done; kill -9 $!; echo done > "$2/result"
"""
# Audit events that precede a change of the disk or the start of a process.
CHANGES = {
    "open",
    "os.rename",
    "os.mkdir",
    "os.link",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.chown",
    "subprocess.Popen",
}


@pytest.fixture
def noted(pipelines: Pipelines) -> Pipelines:
    """A pipeline whose command notes each of its runs."""
    command = shell(NOTED)
    pipelines.configure((*command[:3], str(pipelines.folder), *command[4:]))
    return pipelines


def runs(pipelines: Pipelines, job: Job) -> int:
    """Return how often the command of a job was started."""
    file = pipelines.folder / f"runs-{job.run_id}"
    return len(file.read_text().splitlines()) if file.exists() else 0


def note(pipelines: Pipelines, job: Job, name: str) -> int:
    """Wait until the command has noted the id of a process, and return the id."""
    path = pipelines.of(job).work / name
    return int(wait_until(lambda: path.exists() and path.read_text().strip(), name))


def release(pipelines: Pipelines, job: Job) -> None:
    """Create the file that lets all commands end, and wait for the success of a job."""
    (pipelines.folder / "release").touch()
    status = pipelines.end(job)
    assert status.succeeded, status.detail


def forked(action: Callable[[], object]) -> int:
    """Run an action in another process; return its exit status: negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            raise
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(change: int, action: Callable[[], object]) -> None:
    """Run an action, and kill the process before its change number `change` of the disk."""
    left = change

    def count(event: str, _arguments: object) -> None:
        nonlocal left
        if event not in CHANGES:
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    action()


def kill_at_changes(pipelines: Pipelines, first: int, step: int) -> int:
    """Start a job for every `step`th change, kill the service before this change, and start the job again.

    Each job must succeed, after one run of its command. Return the number of jobs.
    """
    change, jobs = first, []
    while (ended := forked(partial(killed_at, change, partial(pipelines.start, change, files=2)))) < 0:
        jobs.append(pipelines.start(change, files=2))
        change += step
    assert 0 == ended, "the steps of the job fail without a crash"
    (pipelines.folder / "release").touch()
    for job in jobs:
        assert pipelines.end(job).succeeded
        assert 1 == runs(pipelines, job)
        assert 2 == len(list(pipelines.of(job).input.rglob("*.dcm")))
    return len(jobs)


def test_service_killed_at_some_changes_runs_the_command_once(noted: Pipelines) -> None:
    """Verified to fail if a repeated `start` builds the input again."""
    assert 3 < kill_at_changes(noted, 3, 9)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_service_killed_at_every_change_runs_the_command_once(noted: Pipelines) -> None:
    """The commands end at once, so that a repeated start may also find the outcome."""
    (noted.folder / "release").touch()
    assert 30 < kill_at_changes(noted, 1, 1)


def test_service_killed_while_the_runner_starts(noted: Pipelines) -> None:
    """The runner continues without the process that started it; a repeated start finds this runner."""
    steps = noted.steps()
    service = os.fork()
    if service == 0:
        try:
            steps.start(noted.submitter())
        finally:
            os._exit(0)
    wait_until(lambda: noted.of(steps.job).lock_file.exists(), "the lock")
    os.kill(service, signal.SIGKILL)
    os.waitpid(service, 0)
    steps.start(noted.submitter(), repeated=True)
    release(noted, steps.job)
    assert 1 == runs(noted, steps.job)


def test_starts_at_the_same_time_run_the_command_once(noted: Pipelines) -> None:
    """Verified to fail without the lock of the job folder, and if a runner ignores an existing outcome."""
    steps = noted.steps()
    steps.start(noted.submitter())
    children = [os.fork() for _ in range(4)]
    if 0 in children:
        try:
            start_runner(noted.of(steps.job).path)
        finally:
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    release(noted, steps.job)
    start_runner(noted.of(steps.job).path)  # also after the end
    assert 1 == runs(noted, steps.job)


def test_result_of_a_job_that_ended_while_the_service_was_down_is_found(noted: Pipelines) -> None:
    (noted.folder / "release").touch()
    assert 0 == forked(noted.start)
    job = noted.steps().job
    assert noted.end(job).succeeded
    assert ["result"] == [output.name for output in noted.submitter().results(job)]


def interrupt(pipelines: Pipelines, job: Job, *, power_loss: bool) -> int:
    """Kill the runner of a job; for a power loss, kill also the child of its command and change the recorded boot id.

    Return the id of the child.
    """
    runner, child = note(pipelines, job, "runner"), note(pipelines, job, "child")
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: not pipelines.of(job).is_running, "the end of the runner")
    if power_loss:
        os.kill(child, signal.SIGKILL)
        attempts = pipelines.of(job).attempts_file
        attempts.write_text(json.dumps({**json.loads(attempts.read_text()), "boot_id": "before"}))
    return child


@pytest.mark.parametrize(
    ("power_loss", "reason"), [(False, "the runner was stopped or killed"), (True, "the machine was restarted")]
)
def test_interrupted_command_runs_again(noted: Pipelines, power_loss: bool, reason: str) -> None:
    """The second run has an empty output, and the processes of the first run are ended.

    Verified to fail without `_end_remains`.
    """
    job = noted.start()
    child = interrupt(noted, job, power_loss=power_loss)
    (noted.of(job).output / "half").touch()
    status = noted.submitter().status(job)
    assert ("running", False) == (status.state, status.finished)
    wait_until(lambda: runs(noted, job) == 2, "the second run")
    assert not alive(child)
    assert f"start number 2: {reason} after the start of 20" in noted.log(job)
    release(noted, job)
    assert ["result"] == [output.name for output in noted.submitter().results(job)]


def test_command_that_is_interrupted_again_and_again_fails(noted: Pipelines) -> None:
    """A command that kills its runner or crashes the machine must not do so endlessly."""
    job = noted.start()
    for run in (1, 2):
        wait_until(lambda run=run: runs(noted, job) == run, "the run")
        interrupt(noted, job, power_loss=True)
        noted.submitter().status(job)
    status = noted.end(job)
    assert status.succeeded is False
    assert "was started 2 times and interrupted each time, the last time because the machine was rest" in status.detail
    assert "(reruns = 1)" in status.detail
    assert 2 == runs(noted, job)


def test_interrupted_job_can_be_cancelled(noted: Pipelines) -> None:
    """The processes that the killed runner has left running are ended, and the command does not run again."""
    job = noted.start()
    child = interrupt(noted, job, power_loss=False)
    noted.submitter().cancel(job)
    assert not alive(child)
    assert 1 == runs(noted, job)
    assert "cancelled" == noted.submitter().status(job).state


def test_runner_that_is_asked_to_stop_ends_the_command(noted: Pipelines) -> None:
    """A machine that shuts down sends SIGTERM; the command runs again after the start of the machine."""
    job = noted.start()
    child = note(noted, job, "child")
    os.kill(note(noted, job, "runner"), signal.SIGTERM)
    wait_until(lambda: not noted.of(job).is_running, "the end of the runner")
    assert not alive(child)
    assert noted.of(job).outcome() is None
    assert not noted.submitter().status(job).finished
    wait_until(lambda: runs(noted, job) == 2, "the second run")
    release(noted, job)


def test_start_is_recorded_before_the_command_runs(noted: Pipelines) -> None:
    job = noted.start()
    attempts = load_attempts(noted.of(job).attempts_file)
    assert attempts is not None
    assert 1 == attempts.count
    release(noted, job)


def test_deleted_job_folder_is_reported(noted: Pipelines) -> None:
    job = noted.steps().job
    noted.of(job).clean_up()
    noted.of(job).path.rmdir()
    status = noted.submitter().status(job)
    assert ("lost", True, False) == (status.state, status.finished, status.succeeded)
    assert f"`dicom-adapter jobs retry {job.job_id}`" in status.detail
