"""Signals while `run` reads the configuration and while the supervisor is loaded: they stop the service in order."""

from __future__ import annotations

import os
import signal
from types import FrameType


def stop_at_once() -> None:
    """End the process with status 0 on SIGTERM and Ctrl-C: nothing has been started yet. SIGHUP waits.

    The two signals are unblocked: a program that blocks them passes its mask to the programs that it starts.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])


def hold() -> None:
    """Let all signals wait, also in the program that replaces this one. The supervisor handles them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])


def _stop(number: int, _frame: FrameType | None) -> None:
    try:
        os.write(2, f"stopped by {signal.Signals(number).name} before the service was started\n".encode())
    except OSError:
        pass  # the same as everywhere: a full or closed log is no error
    os._exit(0)  # at once: code of a plugin that is being loaded could handle an exception
