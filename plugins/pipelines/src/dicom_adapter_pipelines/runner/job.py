"""The work of a runner: one attempt to run the command of a job, and the outcome."""

from __future__ import annotations

import contextlib
import errno
import signal
import subprocess
import time
import traceback
from collections.abc import Callable

from dicom_adapter import Permanent
from dicom_adapter_pipelines.bounded_log import BoundedLog
from dicom_adapter_pipelines.contracts import JOB_VARIABLE
from dicom_adapter_pipelines.durable_files import remove_tree
from dicom_adapter_pipelines.job_folder import JobFolder
from dicom_adapter_pipelines.launch import Launch
from dicom_adapter_pipelines.locks import take_lock
from dicom_adapter_pipelines.outcome import (
    Attempts,
    Outcome,
    OutcomeState,
    boot_id,
    load_attempts,
    utc_now,
)
from dicom_adapter_pipelines.runner.processes import adopt_descendants, find_by_variable, send
from dicom_adapter_pipelines.runner.run import STOPPED, CommandRun
from dicom_adapter_pipelines.runner.verdict import RunVerdict, failed, judge, see_log

END_SECONDS = 60.0  # limit of `end_arguments`
REMAINS_SECONDS = 10.0  # limit for the end of processes that a killed runner has left
OUTCOME_PAUSE = 1.0  # seconds between two attempts to write the outcome to a full disk


def run_job(folder: JobFolder, ready: Callable[[], None]) -> None:
    """Run the job unless another runner has it or it has ended. `ready` is called when the command was started.

    The runner keeps the lock until its process ends.
    """
    lock = take_lock(folder.lock_file)
    launch = folder.launch()
    if lock is None or launch is None or folder.outcome() is not None:
        return
    adopt_descendants()
    earlier = load_attempts(folder.attempts_file)
    if earlier is not None:
        _end_remains(folder, launch)
    if folder.is_cancelled:
        _save(folder, Outcome(state=OutcomeState.CANCELLED, reason="it was cancelled", ended_at=utc_now()))
    elif earlier is not None and earlier.count > launch.reruns:
        _save(folder, _given_up(earlier, launch))
    else:
        _attempt(folder, launch, earlier, ready)


def _attempt(folder: JobFolder, launch: Launch, earlier: Attempts | None, ready: Callable[[], None]) -> None:
    log = BoundedLog(folder.log_file, launch.max_log_bytes)
    count = 1
    if earlier is not None:
        count = earlier.count + 1
        log.note(f"start number {count}: {_interruption(earlier)}")
        folder.empty_writable_folders(launch.user)
    folder.waiting_file.unlink(missing_ok=True)  # of an interrupted run
    started_at = utc_now()
    Attempts(count=count, boot_id=boot_id(), started_at=started_at).save(folder.attempts_file)
    run = CommandRun(folder, launch, log)
    try:
        verdict = _run(run, folder, launch, log, ready)
    except Exception:
        log.note(f"the runner has failed, please report it: {traceback.format_exc()}")  # the runner has no stderr
        log.close()
        raise
    if run.ended_by == STOPPED:
        log.close()
        return  # without an outcome: the next runner starts the command again, if `reruns` allows it
    log.note(f"{verdict.state.value}: {verdict.reason}" if verdict.reason else verdict.state.value)
    if verdict.log_only:
        log.note(f"the name of the file is {verdict.log_only!r}")
    log.close()
    exit_status = run.exit_status
    ended_by_signal = exit_status is not None and exit_status < 0
    outcome = Outcome(
        state=verdict.state,
        reason=verdict.reason,
        exit_status=None if ended_by_signal else exit_status,
        signal=-exit_status if exit_status is not None and ended_by_signal else None,
        started_at=started_at,
        ended_at=utc_now(),
        attempt=count,
        outputs=verdict.outputs,
        output_bytes=verdict.output_bytes,
        log_bytes=log.received,
        left_behind=run.left_behind,
    )
    _save(folder, outcome)


def _run(run: CommandRun, folder: JobFolder, launch: Launch, log: BoundedLog, ready: Callable[[], None]) -> RunVerdict:
    try:
        run.run(ready)
    except (OSError, ValueError, subprocess.SubprocessError, Permanent) as failure:
        return failed(f"{_start_problem(failure, folder, launch)}; correct the pipeline and retry the job")
    _end_outside(launch, log)
    return judge(run, folder, launch)


def _start_problem(failure: Exception, folder: JobFolder, launch: Launch) -> str:
    """Return why the command cannot be started."""
    if isinstance(failure, Permanent):
        return str(failure)
    reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else type(failure).__name__
    if isinstance(failure, OSError) and failure.filename == str(folder.work):
        return f"user {launch.user!r} cannot enter the folder of the job: {reason}"
    return f"the command {launch.arguments[0]!r} cannot be started: {reason}"


def _end_remains(folder: JobFolder, launch: Launch) -> None:
    """End the processes that a killed runner has left."""
    end = time.monotonic() + REMAINS_SECONDS
    while remains := find_by_variable(JOB_VARIABLE, str(folder.manifest)):
        send(signal.SIGKILL, remains)
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    _end_outside(launch, None)


def _end_outside(launch: Launch, log: BoundedLog | None) -> None:
    """Run `end_arguments`; a failure is logged."""
    if not launch.end_arguments:
        return
    try:
        done = subprocess.run(  # noqa: S603 - made by the submitter
            launch.end_arguments,
            env=dict(launch.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=END_SECONDS,
            check=False,
        )
        problem = "" if not done.returncode else f"exit status {done.returncode}"
    except (OSError, subprocess.SubprocessError) as failure:
        problem = type(failure).__name__
    if problem and log is not None:
        log.note(f"{launch.end_arguments[0]} could not remove what the job has left: {problem}")


def _interruption(earlier: Attempts) -> str:
    if earlier.boot_id != boot_id():
        return f"the machine was restarted after the start of {earlier.started_at}"
    return f"the runner was stopped or killed after the start of {earlier.started_at}"


def _given_up(earlier: Attempts, launch: Launch) -> Outcome:
    runs = "once" if earlier.count == 1 else f"{earlier.count} times"
    return Outcome(
        state=OutcomeState.FAILED,
        reason=(
            f"the command was started {runs} and interrupted each time, the last time because "
            f"{_interruption(earlier)} (reruns = {launch.reruns}); {see_log(launch)}"
        ),
        started_at=earlier.started_at,
        ended_at=utc_now(),
        attempt=earlier.count,
    )


def _save(folder: JobFolder, outcome: Outcome) -> None:
    """Write the outcome. On a full disk, delete the folders that are not needed any more, then wait for free space."""
    needless = [folder.work] if outcome.state is OutcomeState.SUCCEEDED else [folder.work, folder.output]
    while True:
        try:
            outcome.save(folder.outcome_file)
            return
        except OSError as failure:
            if failure.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        with contextlib.suppress(OSError):
            for tree in needless:
                remove_tree(tree)
        time.sleep(OUTCOME_PAUSE)
