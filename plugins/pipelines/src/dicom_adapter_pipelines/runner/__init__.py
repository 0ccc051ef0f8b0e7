"""The runner: a process that runs the command of one job, apart from the service.

`python -m dicom_adapter_pipelines.runner <job folder>` starts a detached process, and ends when the process has started
the command. It also ends if another runner runs the job, or the job has ended. `start_runner` calls it. The detached
process

- holds the lock of the job folder until it ends, so that there is one runner at most;
- records each start of the command in advance, so that starts after interruptions are counted;
- starts the command in a session of its own, and becomes the parent of all processes that the command leaves behind;
- ends all of them at the time limit, when the job is cancelled, when the output is too large, or when the command
  has ended;
- writes the outcome last.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dicom_adapter import Retriable

START_SECONDS = 60.0  # limit for the start of a runner on a busy machine


def start_runner(folder: Path) -> None:
    """Start a runner for a job folder that has a launch.json, unless one lives or the job has ended.

    May be called at any time by several processes. Returns when the job has a runner. Raises Retriable.
    """
    command = [sys.executable, "-m", __name__, str(folder)]
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are the adapter's own
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            timeout=START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as failure:
        raise Retriable(f"the runner of the job did not start within {START_SECONDS:g} seconds") from failure
    except OSError as failure:
        raise Retriable(f"the runner of the job cannot be started: {failure.strerror}") from failure
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise Retriable(f"the runner of the job did not start: {lines[-1]}")
