"""Signals while `run` reads the configuration and loads the supervisor: SIGTERM and SIGINT end it with status 0."""

from __future__ import annotations

import os
import signal
from types import FrameType


def stop_at_once() -> None:
    """End the process with status 0 on SIGTERM and SIGINT (Ctrl-C): nothing has been started yet.

    Both signals are unblocked, because a parent process may have blocked them: a process inherits the mask of its
    parent. SIGHUP is blocked until the supervisor can handle it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])


def hold() -> None:
    """Block the three signals. The mask survives `exec`; the supervisor receives them when it can handle them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])


def _stop(number: int, _frame: FrameType | None) -> None:
    try:
        os.write(2, f"stopped by {signal.Signals(number).name} before the service was started\n".encode())
    except OSError:
        pass  # a full or closed log is no error
    os._exit(0)  # not `sys.exit`: a plugin that is being loaded could catch SystemExit
