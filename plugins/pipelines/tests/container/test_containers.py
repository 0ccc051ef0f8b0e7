"""Jobs in real containers: success and failure, isolation, limits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dicom_adapter import ByteSize, Permanent
from dicom_adapter_pipelines.container.settings import Pull
from support.container_jobs import Containers
from support.podman import BASE, Podman

pytestmark = pytest.mark.podman
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")

# Ignores SIGTERM, and never ends.
STUBBORN = "trap '' TERM; echo begun > /output/begun; while :; do sleep 0.1; done"


def digest(podman: Podman) -> str:
    return podman.run("image", "inspect", "--format", "{{.Digest}}", BASE).stdout.strip()


def names_of_outputs(containers: Containers, number: int) -> list[str]:
    """Return the names of the outputs of the job at this position."""
    return [result.name for result in containers.submitter().results(containers.jobs[number])]


# --- success and failure


def test_container_reads_the_input_and_its_output_is_the_result(containers: Containers) -> None:
    containers.configure("cat /input/*/*.dcm > /output/joined.txt; echo said; echo warned >&2")
    job = containers.start(files=3)
    assert containers.end(job).succeeded
    (result,) = containers.submitter().results(job)
    with result.open() as file:
        assert ("joined.txt", b"012") == (result.name, file.read())
    assert "said\n" in containers.log()
    assert "warned\n" in containers.log()


def test_digest_of_the_image_is_in_the_status(containers: Containers) -> None:
    """The story of a job shows each status, so it shows which image has made a result."""
    assert f"image {digest(containers.podman)}" == containers.run("touch /output/a").detail


def test_no_container_is_left_after_the_end(containers: Containers) -> None:
    for script in ("touch /output/a", "exit 3"):
        containers.run(script)
    assert [] == containers.podman.names()


def test_exit_status_decides(containers: Containers) -> None:
    status = containers.run("touch /output/a; exit 3")
    assert (True, False) == (status.finished, status.succeeded)
    assert "exit status 3 (success = [0])" in status.detail
    assert containers.run("touch /output/a; exit 3", success=(0, 3)).succeeded


def test_container_without_output_has_failed(containers: Containers) -> None:
    """Exit status 0 proves nothing."""
    status = containers.run("echo nothing to do")
    assert not status.succeeded
    assert "without output" in status.detail
    assert containers.run("echo nothing to do", expect_results=False).succeeded


def test_failed_removal_does_not_change_the_result(containers: Containers, wrapped_engine: Path) -> None:
    """Otherwise a job whose result is complete would fail. The runner tries to remove the container again."""
    program = wrapped_engine.parent / "bin" / "podman"
    # The first `rm` after a `run` fails.
    failing = '[ -e "$0.failed" ] || case "$*" in *" rm "*) [ -e "$0.ran" ] && touch "$0.failed" && exit 1;; esac\n'
    noting = 'case "$*" in *" run "*) touch "$0.ran";; esac\n'
    program.write_text(program.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{failing}{noting}"))
    assert containers.run("touch /output/a").succeeded
    assert "rm failed" in containers.log()
    assert [] == containers.podman.names()


def test_missing_command_is_named(containers: Containers) -> None:
    status = containers.run(image=BASE, command=("/opt/lung/run", "{input}"))
    assert not status.succeeded
    assert status.detail.startswith(f"image '{BASE}' has no executable command /opt/lung/run: correct `command`")


def test_command_without_permission_is_distinguished_from_a_missing_command(containers: Containers) -> None:
    """The engine ends with the same status if it is not permitted to start any container."""
    status = containers.run(image=BASE, command=("/bin",))
    assert not status.succeeded
    assert status.detail.startswith(f"podman has no permission to start image '{BASE}', or /bin is not")


def test_exit_status_127_of_a_shell_is_that_of_the_pipeline(containers: Containers) -> None:
    """The shell was started, so the command of the pipeline exists."""
    assert "exit status 127" in containers.run("/opt/lung/run").detail


def test_entrypoint_and_command_replace_those_of_the_image(containers: Containers) -> None:
    image = containers.podman.build(
        "localhost/own-entry-point",
        'ENTRYPOINT ["/show", "entry"]\nCMD ["default"]',
        {"/show": '#!/bin/sh\necho "$@" > "$DICOM_ADAPTER_OUTPUT/words"\n'},
    )
    expected = {
        "entry default": {},
        "entry /input": {"command": ("{input}",)},
        "mine": {"entrypoint": ("/show", "mine")},
        "mine /output": {"entrypoint": ("/show", "mine"), "command": ("{output}",)},
    }
    for words, settings in expected.items():
        assert containers.run(image=image, **settings).succeeded
        assert f"{words}\n" == containers.output("words")


# --- images and engines that are missing


def test_missing_image_is_a_permanent_error(containers: Containers) -> None:
    containers.configure(image="registry.example/lung:1.2")
    with pytest.raises(Permanent, match=r"lung:1.2' is missing: run `podman pull registry.example/lung:1.2`"):
        containers.start()


def test_failed_pull_names_the_next_step(containers: Containers) -> None:
    containers.settings["pull"] = Pull.MISSING
    status = containers.run(image="localhost:1/lung:1.2")  # nothing listens on port 1
    assert not status.succeeded
    assert "image 'localhost:1/lung:1.2' is missing and cannot be pulled: run `podman pull" in status.detail
    assert "localhost:1" in containers.log()


def test_image_that_disappears_before_the_run_is_named(containers: Containers) -> None:
    image = containers.podman.build("localhost/short-lived")
    containers.configure("touch /output/a", image=image)
    prepared = containers.prepare()
    containers.podman.run("rmi", image)
    prepared.start(containers.submitter())
    assert f"image '{image}' is missing, and localhost/ is no registry" in containers.end(prepared.job).detail


# --- isolation


def test_container_is_isolated(containers: Containers) -> None:
    """No network, no capabilities, no new privileges, no writing to the input.

    Verified to fail without the options of isolation.
    """
    script = """
        grep -E 'Cap|NoNewPrivs' /proc/self/status > /output/status
        ip -o link | cut -d: -f2 > /output/links
        (touch /input/a || touch /input/*/*.dcm || touch /job.json) 2>/dev/null && echo written > /output/written
        id -u > /output/user
    """
    assert containers.run(script).succeeded
    status = dict(line.split(":\t") for line in containers.output("status").splitlines())
    assert {"1"} == {status.pop("NoNewPrivs")}
    assert {"0000000000000000"} == set(status.values())
    assert [" lo"] == containers.output("links").splitlines()
    assert not (containers.of(containers.jobs[0]).output / "written").exists()
    assert f"{os.geteuid()}\n" == containers.output("user")


def test_read_only_container_writes_only_to_its_folders(containers: Containers) -> None:
    script = "touch /tmp/a /output/a && touch /bin/a 2>/dev/null && touch /output/written; exit 0"
    assert containers.run(script, read_only=True).succeeded
    assert ["a"] == names_of_outputs(containers, 0)
    assert containers.run(script).succeeded
    assert ["a", "written"] == names_of_outputs(containers, 1)


def test_temporary_files_count_as_output(containers: Containers) -> None:
    """`/tmp` is a folder of the job, so that its size is limited."""
    status = containers.run(
        "dd if=/dev/zero of=/tmp/large bs=1M count=64; sleep 600", max_output_bytes=ByteSize(32 << 20)
    )
    assert "max-output-bytes" in status.detail
    assert [] == containers.podman.names()


def test_environment_reaches_the_container_and_not_the_command_lines(
    containers: Containers, wrapped_engine: Path
) -> None:
    """Other users of the machine see the arguments of processes."""
    script = 'printf "%s|%s|%s\\n" "$TOKEN" "$PLACE" "$PATH" > /output/variables; cat $DICOM_ADAPTER_JOB > /output/job'
    variables = {"TOKEN": "s3cret\nof two lines", "PLACE": "{input}", "PATH": "/bin:/opt/bin"}
    assert containers.run(script, environment=variables).succeeded
    assert "s3cret\nof two lines|/input|/bin:/opt/bin\n" == containers.output("variables")
    assert "s3cret" not in wrapped_engine.read_text()
    assert (
        containers.jobs[0].job_id == json.loads((containers.of(containers.jobs[0]).output / "job").read_text())["job"]
    )


@needs_root
def test_container_of_another_user_reads_the_input_and_writes_its_output(containers: Containers) -> None:
    script = "id -u > /output/user; id -g >> /output/user; cat /input/*/*.dcm /job.json > /dev/null && touch /tmp/a"
    assert containers.run(script, user="1000:1001").succeeded
    assert "1000\n1001\n" == containers.output("user")
    (result,) = containers.submitter().results(containers.jobs[0])
    result.open().close()
    containers.submitter().clean_up(containers.jobs[0])
    assert not containers.of(containers.jobs[0]).output.exists()


# --- limits


def test_limits_are_those_of_the_pipeline(containers: Containers) -> None:
    containers.configure(
        STUBBORN,
        memory=ByteSize(64 << 20),
        shared_memory=ByteSize(2 << 20),
        cpus=0.5,
        pids=50,
        options=("--label", "a=b"),
    )
    job = containers.start()
    containers.output("begun")
    (found,) = json.loads(containers.podman.run("inspect", containers.container(job)).stdout)
    limits = found["HostConfig"]
    assert (64 << 20, 64 << 20, 2 << 20, 50) == tuple(
        limits[name] for name in ("Memory", "MemorySwap", "ShmSize", "PidsLimit")
    )
    assert 500_000_000 == limits["NanoCpus"]
    assert "b" == found["Config"]["Labels"]["a"]


def test_end_at_the_memory_limit_is_explained(containers: Containers) -> None:
    status = containers.run("exec tail /dev/zero", memory=ByteSize(32 << 20))
    assert not status.succeeded
    assert "killed, probably at its memory limit of 34 MB: raise `memory`" in status.detail


def test_time_limit_ends_a_container_that_ignores_sigterm(containers: Containers) -> None:
    status = containers.run(STUBBORN, time_limit=1.0)
    assert not status.succeeded
    assert "it has run longer than time-limit = 1 seconds" in status.detail
    assert [] == containers.podman.names()


def test_processes_in_the_background_end_with_the_container(containers: Containers) -> None:
    """Otherwise an output could change after the end of the job."""
    script = "touch /output/a; (trap '' TERM; while :; do date > /output/late; done) & sleep 0.2"
    assert containers.run(script).succeeded
    assert [] == containers.podman.names()
