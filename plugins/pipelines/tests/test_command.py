"""The submitter `command` with real processes: success, failure, limits, and what a command may do wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dicom_adapter import Permanent, Retriable, SubmitterContext
from dicom_adapter.testing.submitter_jobs import PATIENT_ID, make_job, make_upload
from support.command_jobs import Pipelines, alive, python, shell, wait_until

COPY = shell('cp -r "$1"/. "$2"; echo "copied"')


def read_number(path: Path) -> int:
    """Wait until a command has written its process id, and return it."""
    return int(wait_until(lambda: path.exists() and path.read_text().strip(), "the number"))


# --- input and results


def test_command_gets_the_instances_and_its_files_are_the_results(pipelines: Pipelines) -> None:
    """Input is in a folder for each series, in the order of the job; results have the names of the output files."""
    pipelines.configure(COPY)
    job = pipelines.start(files=3)
    status = pipelines.end(job)
    assert ("succeeded", True, "") == (status.state, status.succeeded, status.detail)
    outputs = list(pipelines.submitter().results(job))
    assert ["001/00000.dcm", "001/00001.dcm", "001/00002.dcm"] == [output.name for output in outputs]
    with outputs[2].open() as file:
        assert b"2" == file.read()
    assert "copied\n" in pipelines.log()


def test_places_are_in_arguments_and_environment(pipelines: Pipelines) -> None:
    """Placeholders are replaced in arguments and in configured variables; the environment has only what is listed."""
    code = (
        "import json, os, sys; json.dump([sys.argv[1:], dict(os.environ), os.getcwd()], open(sys.argv[2]+'/seen','w'))"
    )
    status = pipelines.run(
        python(code), environment={"WHERE": "{input}/x", "BRACES": "{}"}, inherit_environment=("PATH",)
    )
    assert status.succeeded, pipelines.log()
    folder = pipelines.of(pipelines.jobs[0])
    arguments, environment, current = json.loads((folder.output / "seen").read_text())
    places = [str(folder.input), str(folder.output), str(folder.manifest), str(folder.work)]
    assert places == arguments
    assert {
        "PATH": os.environ["PATH"],
        "WHERE": f"{folder.input}/x",
        "BRACES": "{}",
        "TMPDIR": places[3],
        "DICOM_ADAPTER_INPUT": places[0],
        "DICOM_ADAPTER_OUTPUT": places[1],
        "DICOM_ADAPTER_JOB": places[2],
    } == {name: value for name, value in environment.items() if name != "LC_CTYPE"}  # which Python sets
    assert places[3] == current


def test_job_file_has_the_metadata(pipelines: Pipelines) -> None:
    """`job.json` is for commands that need to know more than the instances."""
    assert pipelines.run(
        shell('cp "$3" "$2/copy.json"'),
    ).succeeded
    found = json.loads((pipelines.of(pipelines.jobs[0]).output / "copy.json").read_text())
    assert ("lung", {"Source": "LUNG (suite)", "Instances": "2"}) == (found["pipeline"], found["metadata"])


def test_folder_may_be_relative(pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is relative to the current folder of the service; the runner has another current folder."""
    monkeypatch.chdir(pipelines.folder)
    pipelines.context = SubmitterContext(name="local", data_folder=Path("relative"))
    assert pipelines.run(COPY).succeeded, pipelines.log()
    assert (pipelines.folder / "relative" / "jobs").exists()


def test_no_shell_reads_the_command(pipelines: Pipelines) -> None:
    """A `;` or `$` in an argument is a character."""
    status = pipelines.run(("printf", "%s", "$HOME; touch /tmp/no"), expect_results=False)
    assert status.succeeded
    assert "$HOME; touch /tmp/no" in pipelines.log()


# --- failures


def test_exit_status_is_named_with_the_next_step(pipelines: Pipelines) -> None:
    """The reason contains nothing of the log, which may contain patient data."""
    status = pipelines.run(shell(f'echo "{PATIENT_ID} is wrong"; touch "$2/x"; exit 3'))
    assert status.succeeded is False
    job_id = pipelines.jobs[0].job_id
    expected = f"the command ended with exit status 3 (success = [0]); see `dicom-adapter jobs show {job_id} --log`"
    assert expected == status.detail
    assert f"{PATIENT_ID} is wrong" in pipelines.log()


def test_other_exit_statuses_may_be_a_success(pipelines: Pipelines) -> None:
    assert pipelines.run(shell('touch "$2/x"; exit 3'), success=(0, 3)).succeeded


def test_exit_status_0_without_output_is_a_failure(pipelines: Pipelines) -> None:
    """Exit status 0 proves nothing. The end of the log is shown by `jobs show --log`."""
    status = pipelines.run(shell('echo "no series of interest"; mkdir "$2/empty-folder"'))
    assert status.succeeded is False
    assert "ended with exit status 0, but without output; see `dicom-adapter jobs show" in status.detail
    assert "no series of interest" in pipelines.log()


def test_output_may_be_optional(pipelines: Pipelines) -> None:
    assert pipelines.run(("true",), expect_results=False).succeeded


def test_signal_is_named(pipelines: Pipelines) -> None:
    status = pipelines.run(shell("kill -SEGV $$"))
    assert "a signal ended the command: SIGSEGV; see" in status.detail


def test_missing_command_fails_the_job_and_the_check(pipelines: Pipelines) -> None:
    """A command may be removed after the check."""
    status = pipelines.run(("/opt/none/run",))
    expected = "'/opt/none/run' cannot be started: No such file or directory; correct the pipeline and retry the job"
    assert (False, True) == (status.succeeded, expected in status.detail)
    with pytest.raises(Permanent, match="'lung': the command '/opt/none/run' is not found or not executable: install"):
        pipelines.submitter().check_connection()


def test_check_names_the_pipelines(pipelines: Pipelines) -> None:
    pipelines.configure(("true",))
    assert pipelines.submitter().check_connection().startswith("commands are found: lung; jobs are in ")


def test_unknown_pipeline_names_the_known_ones(pipelines: Pipelines) -> None:
    pipelines.configure(("true",))
    with pytest.raises(
        Permanent, match=r"'brain' is not configured \(configured: lung\): add \[submitters\.suite\.pipe"
    ):
        pipelines.submitter().create_job(make_job(1, "brain"))


def test_deleted_instances_are_noticed(pipelines: Pipelines) -> None:
    """A command that gets fewer instances could give a wrong result without an error."""
    pipelines.configure(("true",))
    steps = pipelines.steps(files=2)
    next(pipelines.of(steps.job).uploads.iterdir()).unlink()
    with pytest.raises(
        Permanent, match=r"has 1 of 2 instances, so files were deleted; run `dicom-adapter jobs cancel 0+1`, and"
    ):
        steps.start(pipelines.submitter())


# --- limits


def test_time_limit_ends_the_command(pipelines: Pipelines) -> None:
    status = pipelines.run(("sleep", "600"), time_limit=0.2)
    assert "the command was ended: it has run longer than time-limit = 0.2 seconds; see" in status.detail


def test_command_that_ignores_sigterm_is_killed(pipelines: Pipelines) -> None:
    """All processes of the group are ended, also those that ignore SIGTERM."""
    code = 'trap "" TERM; (trap "" TERM; echo $$ > "$4/inner"; while :; do sleep 1; done) & echo $! > "$4/child"; wait'
    pipelines.configure(shell(code), time_limit=0.5)
    job = pipelines.start()
    child = read_number(pipelines.of(job).work / "child")
    assert pipelines.end(job).succeeded is False
    assert not alive(child)


def test_background_processes_are_ended_with_the_command(pipelines: Pipelines) -> None:
    """Also a daemon in a session of its own: the runner adopts it. Verified to fail without `adopt_descendants`."""
    daemon = 'echo $$ > "$0/part"; mv "$0/part" "$0/daemon"; trap "" TERM; while :; do sleep 1; done'
    code = f'(setsid sh -c \'{daemon}\' "$4" &); until [ -e "$4/daemon" ]; do sleep 0.01; done'
    pipelines.configure(shell(code))
    job = pipelines.start()
    process = read_number(pipelines.of(job).work / "daemon")
    status = pipelines.end(job)
    assert not alive(process)
    assert "without output, and left " in status.detail
    assert "processes running, which were ended: it must wait for them" in status.detail


def test_log_of_a_command_that_prints_much_is_bounded(pipelines: Pipelines) -> None:
    """The head and the tail of the log are kept; the command is not slowed down by a full pipe."""
    line = 'head -c 10000 /dev/zero | tr "\\0" x; echo'
    code = f'echo first; for i in $(seq 300); do {line}; done; echo last; touch "$2/x"'
    status = pipelines.run(shell(code), max_log_bytes=100_000)
    assert status.succeeded
    log = pipelines.log()
    assert 50_000 < len(log) < 110_000
    assert log.startswith("first\n")
    assert "last\n" in log
    assert " bytes omitted\n" in log
    assert ["log"] == sorted(path.name for path in pipelines.of(pipelines.jobs[0]).path.glob("log*"))


def test_log_can_be_read_while_the_command_runs(pipelines: Pipelines) -> None:
    pipelines.configure(
        shell('echo begun; head -c 50000 /dev/zero | tr "\\0" x; echo end; sleep 600'), max_log_bytes=8192
    )
    job = pipelines.start()
    log = wait_until(lambda: (text := pipelines.log(job)).endswith("end\n") and text, "the end of the text")
    assert log.startswith("begun\n")
    assert len(log) < 9000


def test_command_that_fills_the_disk_is_ended(pipelines: Pipelines) -> None:
    """The size of output and work is measured while the command runs."""
    status = pipelines.run(shell('while :; do head -c 100000 /dev/zero >> "$4/x"; done'), max_output_bytes=1_000_000)
    expected = "was ended: its files in `output` and `work` are larger than max-output-bytes = 1000000; see"
    assert expected in status.detail


def test_sparse_file_of_10_gb_is_refused(pipelines: Pipelines) -> None:
    """The length counts, not the space on the disk: it would be read, stored and sent."""
    status = pipelines.run(shell('truncate -s 10G "$2/large.dcm"'))
    assert "larger than max-output-bytes = 8589934592" in status.detail


def test_memory_is_limited(pipelines: Pipelines) -> None:
    status = pipelines.run(python("x = bytearray(1 << 30)"), memory=500 << 20)
    assert "exit status 1" in status.detail
    assert "MemoryError" in pipelines.log()


def test_cpu_time_is_limited(pipelines: Pipelines) -> None:
    status = pipelines.run(shell("while :; do :; done"), cpu_seconds=1)
    assert "SIGXCPU (cpu-seconds was reached)" in status.detail or "SIGKILL" in status.detail


def test_each_job_has_a_gpu_for_itself(pipelines: Pipelines) -> None:
    """A job waits while all GPUs are in use, also by a job that an earlier process of the service has started."""
    pipelines.gpus = ("0", "GPU-5f3a")
    pipelines.configure(shell('echo "$CUDA_VISIBLE_DEVICES" > "$2/gpu"; until [ -e "$4/end" ]; do sleep 0.02; done'))
    assert 2 == pipelines.submitter().most_running
    jobs = [pipelines.start(number) for number in (1, 2)]
    files = [pipelines.of(job).output / "gpu" for job in jobs]
    assert ["0", "GPU-5f3a"] == [
        wait_until(lambda file=file: file.exists() and file.read_text().strip()) for file in files
    ]
    waiting = pipelines.steps(3)
    with pytest.raises(Retriable, match=r"all GPUs are in use by other jobs \(0, GPU-5f3a\)"):
        waiting.start(pipelines.submitter())
    (pipelines.of(jobs[0]).work / "end").touch()
    assert pipelines.end(jobs[0]).succeeded
    waiting.start(pipelines.submitter())
    file = pipelines.of(waiting.job).output / "gpu"
    assert "0" == wait_until(lambda: file.exists() and file.read_text().strip())


# --- output that is not collected


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ('ln -s /etc/passwd "$2/NOBODY-4711.dcm"', "a symbolic link, and links are not followed"),
        ('ln -s /etc "$2/NOBODY-4711"', "a symbolic link, and links are not followed"),
        ('mkfifo "$2/NOBODY-4711"', "a FIFO, and only regular files are collected"),
        ('echo x > "$4/secret"; ln "$4/secret" "$2/NOBODY-4711"', "a hard link, a second name of another file"),
        ('mkdir -p "$2/$(printf "a/%.0s" $(seq 40))"', "too many nested folders"),
        ('touch "$2/$(printf "NOBODY-4711\\377")"', "a file whose name is not UTF-8"),
    ],
    ids=["link", "link-to-folder", "fifo", "hard-link", "deep", "name"],
)
def test_output_that_is_not_collected_fails_the_job(pipelines: Pipelines, code: str, problem: str) -> None:
    """The reason has no name of a file, because a name may be patient data; the log has it."""
    status = pipelines.run(shell(code))
    assert (False, True) == (status.succeeded, problem in status.detail), status.detail
    assert PATIENT_ID not in status.detail
    assert "[dicom-adapter] the name of the file is '" in pipelines.log()


def test_output_folder_that_was_replaced_by_a_link_is_not_read(pipelines: Pipelines) -> None:
    status = pipelines.run(shell('rmdir "$2"; ln -s /etc "$2"'))
    assert "the output cannot be read: " in status.detail


def test_files_are_checked_again_when_they_are_opened(pipelines: Pipelines, tmp_path: Path) -> None:
    """A file that became a link after it was listed is not followed. Verified to fail without O_NOFOLLOW."""
    pipelines.configure(shell('mkdir "$2/a"; touch "$2/a/file"'))
    job = pipelines.start()
    assert pipelines.end(job).succeeded
    (output,) = pipelines.submitter().results(job)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("secret")
    folder = pipelines.of(job).output
    (folder / "a").rename(folder / "b")
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="an output file cannot be read"):
        output.open()


# --- cancelling and cleaning up


def test_cancel_ends_the_group_and_deletes_the_files(pipelines: Pipelines) -> None:
    pipelines.configure(shell('sleep 600 & echo $! > "$4/child"; wait'))
    job = pipelines.start()
    child = read_number(pipelines.of(job).work / "child")
    pipelines.submitter().cancel(job)
    assert not alive(child)
    status = pipelines.submitter().status(job)
    assert ("cancelled", True, False) == (status.state, status.finished, status.succeeded)
    assert [] == [path.name for path in pipelines.of(job).path.iterdir() if path.is_dir()]


def test_clean_up_keeps_the_log(pipelines: Pipelines) -> None:
    """Also read-only folders and folders without permissions are deleted."""
    pipelines.configure(shell('echo text; mkdir -p "$2/a/b"; touch "$2/a/b/x"; chmod 0 "$2/a/b"'))
    job = pipelines.start()
    pipelines.end(job)
    pipelines.submitter().clean_up(job)
    names = {path.name for path in pipelines.of(job).path.iterdir()}
    assert {"attempts.json", "lock", "log", "outcome.json"} == names
    assert "text\n" in pipelines.log(job)
    with pytest.raises(Permanent, match="its outputs were deleted"):
        list(pipelines.submitter().results(job))


def test_old_logs_are_deleted(pipelines: Pipelines) -> None:
    """A folder is kept, however old it is, until its results are collected, or the adapter has read of the failure.

    Verified to fail when every folder with an outcome is deleted after some time.
    """
    pipelines.configure(shell('touch "$2/result"'))
    collected, succeeded = pipelines.start(1), pipelines.start(2)
    pipelines.configure(("false",))
    known, unknown = pipelines.start(3), pipelines.start(4)
    jobs = (collected, succeeded, known, unknown)
    wait_until(lambda: all(pipelines.of(job).outcome() and not pipelines.of(job).is_running for job in jobs), "the end")
    pipelines.submitter().clean_up(collected)
    assert False is pipelines.submitter().status(known).succeeded
    new = make_job(5, "lung")
    for step in (lambda submitter: submitter.open(), lambda submitter: submitter.create_job(new)):
        for job in jobs:
            if pipelines.of(job).exists:
                os.utime(pipelines.of(job).path, (0, 0))
        step(pipelines.submitter())  # a new submitter, which has not deleted anything yet
        left = {folder.path.name for folder in pipelines.submitter().folders.all()}
        assert {succeeded.run_id, unknown.run_id} == left - {new.run_id}
    assert ["result"] == [output.name for output in pipelines.submitter().results(succeeded)]
    assert (True, False) == tuple(pipelines.submitter().status(job).succeeded for job in (succeeded, unknown))


def test_retry_keeps_only_the_log_of_the_earlier_run(pipelines: Pipelines) -> None:
    pipelines.configure(shell("echo failed; exit 1"))
    job = pipelines.start()
    pipelines.end(job)
    again = pipelines.start(run=2)
    assert not pipelines.of(job).input.exists()
    assert "failed\n" in pipelines.log(job)
    pipelines.end(again)


def test_repeated_upload_does_not_change_the_stored_instance(pipelines: Pipelines) -> None:
    pipelines.configure(("true",))
    steps = pipelines.steps(files=1)
    for _ in range(2):
        steps.upload(pipelines.submitter(), make_upload(0, b"other"), repeated=True)
    assert [b"0"] == [file.path.read_bytes() for file in pipelines.of(steps.job).uploaded()]


def test_command_starts_with_the_default_signal_handlers(pipelines: Pipelines) -> None:
    """The runner ignores SIGHUP; its command must not inherit this."""
    code = "import signal, sys; sys.exit(signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL)"
    assert pipelines.run(python(code), expect_results=False).succeeded
