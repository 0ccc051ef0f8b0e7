"""Cancellation, and killed processes: the adapter, the runner, the client of the engine."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from support.container_jobs import Containers, kill_clients, kill_runner, wait_until

pytestmark = [pytest.mark.podman, pytest.mark.slow]

# Ignores SIGTERM, and never ends.
STUBBORN = "trap '' TERM; echo begun > /output/begun; while :; do sleep 0.1; done"
# Ends when the test writes the file `go` into the work folder, which is /tmp in the container.
WAITING = "echo begun >> /output/begun; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo ended > /output/ended"


def test_cancelled_container_is_removed(containers: Containers) -> None:
    containers.configure(STUBBORN)
    job = containers.start()
    containers.output("begun")
    containers.submitter().cancel(job)
    assert [] == containers.podman.names()
    status = containers.submitter().status(job)
    assert (True, False) == (status.finished, status.succeeded)
    assert not containers.of(job).launch_file.exists()  # it has the environment, with its secrets


def test_killed_adapter_neither_ends_nor_repeats_a_container(containers: Containers) -> None:
    containers.configure(WAITING)
    service = multiprocessing.get_context("fork").Process(target=lambda: (containers.start(), signal.pause()))
    service.start()
    folder = wait_until(lambda: containers.submitter().folders.all(), "the folder of the job")[0]
    begun = folder.output / "begun"
    wait_until(lambda: begun.exists() and begun.read_text(), "the start of the container")
    assert service.pid is not None
    os.kill(service.pid, signal.SIGKILL)
    service.join()
    submitter = containers.submitter()  # the adapter restarts
    submitter.open()
    job = containers.job(1)
    submitter.start(job)
    assert not submitter.status(job).finished
    (folder.work / "go").touch()
    assert containers.end(job).succeeded
    assert "begun\n" == begun.read_text()


def test_container_of_a_killed_runner_is_removed_before_the_job_runs_again(containers: Containers) -> None:
    """Verified to fail without `end_arguments` and the removal before a run: the name is in use."""
    containers.configure(WAITING)
    job = containers.start()
    containers.output("begun")
    (first,) = containers.podman.run("ps", "--quiet", "--no-trunc").stdout.split()
    kill_runner(containers, job)
    assert first in containers.podman.run("ps", "--quiet", "--no-trunc").stdout.split()
    containers.submitter().status(job)  # starts another runner
    wait_until(lambda: "start number 2" in containers.log(), "the second start")
    containers.output("begun")
    assert first not in containers.podman.run("ps", "--all", "--quiet", "--no-trunc").stdout.split()
    (containers.of(job).work / "go").touch()
    assert containers.end(job).succeeded
    assert "begun\n" == containers.output("begun")


def test_job_of_a_killed_client_has_failed_and_its_container_is_removed(containers: Containers) -> None:
    """Without the client of the engine, the exit status of the container is unknown."""
    containers.configure(WAITING)
    job = containers.start()
    containers.output("begun")
    kill_clients(containers, job)
    assert not containers.end(job).succeeded
    assert [] == containers.podman.names()


def test_cancellation_while_the_runner_is_dead_removes_the_container(containers: Containers) -> None:
    containers.configure(STUBBORN)
    job = containers.start()
    containers.output("begun")
    kill_runner(containers, job)
    containers.submitter().cancel(job)
    wait_until(lambda: not containers.podman.names(), "the removal of the container")
