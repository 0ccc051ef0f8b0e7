"""`python -m dicom_adapter_pipelines.runner <job folder>`: detach, then run the job."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from dicom_adapter_pipelines.job_folder import JobFolder
from dicom_adapter_pipelines.runner.job import run_job

OK = b"+"


def main() -> int:
    """Fork. Return 0 when the child has started the command, another runner runs the job, or the job has ended."""
    folder = Path(sys.argv[1])
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        answer = os.read(reading, 4096)
        if answer == OK:
            return 0
        sys.stderr.write(answer.decode(errors="replace") or "it ended unexpectedly")
        return 1
    os.close(reading)
    _detach()
    ready = _Handshake(writing)
    try:
        run_job(JobFolder(folder), ready.succeed)
    except OSError as failure:
        ready.fail(f"{failure.strerror or failure}")
    ready.succeed()
    return 0


class _Handshake:
    """Reports once to the parent process that the job has a runner, or why not."""

    def __init__(self, pipe: int) -> None:
        self._pipe: int | None = pipe

    def succeed(self) -> None:
        self._answer(OK)

    def fail(self, reason: str) -> None:
        self._answer(reason.encode()[:4000])

    def _answer(self, data: bytes) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # the parent was killed
                os.write(self._pipe, data)
            os.close(self._pipe)
            self._pipe = None


def _detach() -> None:
    """Give up the terminal and the current folder of the service. `start_runner` has already begun a new session."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
