"""A command fills the disk of its job folders: the job ends with a reason, and the space is free again."""

from __future__ import annotations

from support.command_jobs import Pipelines, shell, wait_until
from support.full_disk import MB, Disk


def test_command_that_fills_the_disk_fails_and_frees_it(disk: Disk) -> None:
    """The outcome is written although no byte was free. Verified to fail when the output of a failed run is kept."""
    pipelines = Pipelines(disk.path)
    pipelines.configure(shell('echo begun; cat /dev/zero > "$2/all"; exit 1'))
    job = pipelines.start()
    status = pipelines.end(job)
    assert (False, True) == (status.succeeded, "exit status 1" in status.detail)
    pipelines.submitter().cancel(job)
    assert disk.free > 5 * MB


def test_a_command_that_ended_on_a_full_disk_succeeds_when_there_is_space(disk: Disk) -> None:
    """Another program fills the disk while the command runs, and frees it after the end of the command."""
    pipelines = Pipelines(disk.path)
    pipelines.configure(shell('echo result > "$2/file"; touch "$4/ready"; until [ -e "$4/go" ]; do sleep 0.05; done'))
    job = pipelines.start()
    folder = pipelines.of(job)
    wait_until((folder.work / "ready").exists)
    (folder.work / "go.part").touch()
    disk.fill()
    (folder.work / "go.part").rename(folder.work / "go")
    wait_until(lambda: not (folder.work).exists(), "the deletion of temporary files")
    disk.clear()
    assert pipelines.end(job).succeeded
