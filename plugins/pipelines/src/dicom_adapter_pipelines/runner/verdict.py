"""The verdict on a run that has ended: success, failure with the reason and the next step, or cancelled."""

from __future__ import annotations

import signal

from attrs import frozen

from dicom_adapter_pipelines.job_folder import JobFolder
from dicom_adapter_pipelines.launch import Launch
from dicom_adapter_pipelines.outcome import OutcomeState
from dicom_adapter_pipelines.outputs import OutputRefused, list_outputs
from dicom_adapter_pipelines.runner.run import CANCELLED, CommandRun, size_problem


@frozen(kw_only=True)
class RunVerdict:
    """How a run ended, without times."""

    state: OutcomeState
    reason: str = ""
    log_only: str = ""  # name of a file that the reason is about: it may contain patient data
    outputs: int = 0
    output_bytes: int = 0


def judge(run: CommandRun, folder: JobFolder, launch: Launch) -> RunVerdict:
    """Judge a run whose processes have all ended."""
    if run.ended_by == CANCELLED or folder.is_cancelled:
        return RunVerdict(state=OutcomeState.CANCELLED, reason="it was cancelled")
    if run.unkillable:
        return failed("some of its processes cannot be ended: look for processes in state D, or restart the machine")
    if run.ended_by:
        return failed(f"the command was ended: {run.ended_by}; {see_log(launch)}")
    problem = exit_problem(run.exit_status, launch)
    if problem:
        return failed(f"{problem}; {see_log(launch)}")
    return _judge_output(run, folder, launch)


def _judge_output(run: CommandRun, folder: JobFolder, launch: Launch) -> RunVerdict:
    try:
        outputs = list_outputs(folder.output, launch.ignored_outputs)
    except OutputRefused as refusal:
        return failed(f"{refusal}; {see_log(launch)}", log_only=refusal.name)
    except OSError as failure:
        return failed(f"the output cannot be read: {failure.strerror}; {see_log(launch)}")
    problem = size_problem(folder, launch)
    if not problem and not outputs and launch.expect_results:
        problem = f"the command ended with exit status {run.exit_status}, but without output"
        if run.left_behind:
            problem += f", and left {run.left_behind} processes running, which were ended: it must wait for them"
    if problem:
        return failed(f"{problem}; {see_log(launch)}")
    size = sum(file.size_bytes for file in outputs)
    return RunVerdict(state=OutcomeState.SUCCEEDED, outputs=len(outputs), output_bytes=size)


def exit_problem(exit_status: int | None, launch: Launch) -> str:
    """Return why an exit status is not a success, or ""."""
    if exit_status is None:
        return "the exit status of the command is unknown"
    if exit_status < 0:
        number = -exit_status
        hint = " (cpu-seconds was reached)" if number == signal.SIGXCPU else ""
        hint = " (perhaps by the system, for lack of memory)" if number == signal.SIGKILL else hint
        return f"a signal ended the command: {signal_name(number)}{hint}"
    if exit_status not in launch.success:
        allowed = ", ".join(str(status) for status in launch.success)
        return f"the command ended with exit status {exit_status} (success = [{allowed}])"
    return ""


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def see_log(launch: Launch) -> str:
    """Return the next step: the log may contain patient data, so a reason never quotes it."""
    return f"see `dicom-adapter jobs show {launch.job_id} --log`"


def failed(reason: str, log_only: str = "") -> RunVerdict:
    return RunVerdict(state=OutcomeState.FAILED, reason=reason, log_only=log_only)
