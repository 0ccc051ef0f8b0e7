"""Kills of a process at a given point, with SIGKILL."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def until_killed(prepare: Callable[[], T], steps: Callable[[T], None], where: Any, name: str) -> None:
    """Perform steps in another process. It is killed after the first call of the function `where.name` in `steps`."""
    pid = os.fork()
    if pid:
        _pid, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) and signal.SIGKILL == os.WTERMSIG(status), "the process was not killed"
        return
    original = getattr(where, name)

    def call(*arguments: Any, **options: Any) -> Any:
        original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        prepared = prepare()
        setattr(where, name, call)
        steps(prepared)
    finally:
        os._exit(1)
