"""The parent process of the doctor: start a process for each plugin, collect its reports, and end the process."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from attrs import evolve

from dicom_adapter.plugins.entry_points import VARIABLE, PluginPoint
from dicom_adapter.simulation.doctor.values import Diagnosis, Trial

SECONDS = 120.0  # time limit of one trial, which may import a large library


def examine(
    point: PluginPoint, configuration: Path | None, seconds: float = SECONDS, settings: Sequence[str] = ()
) -> Diagnosis:
    """Test a plugin, even if it is disabled.

    Its settings are those of the configuration; `settings`, as `KEY=VALUE`, replace or complete them. `seconds` is the
    time limit of each trial.
    """
    named = Diagnosis(
        plugin=point.name,
        distribution=point.dist.name if point.dist else "an unknown distribution",
        version=point.dist.version if point.dist else "",
    )
    path = "" if configuration is None else str(configuration)
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "dicom_adapter.simulation.doctor", point.name, path, *settings],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # output of the plugin is not part of the report
        env={name: value for name, value in os.environ.items() if name != VARIABLE},
        text=True,
    )
    with process:  # closes the pipe
        try:
            return evolve(named, trials=tuple(_follow(process, seconds)))
        finally:
            process.kill()


def _follow(process: subprocess.Popen[str], seconds: float) -> Iterator[Trial]:
    """Yield the trials that the process reports. If the process hangs or dies, the current trial has a problem."""
    assert process.stdout is not None  # it is a pipe
    reports: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(process.stdout, reports), daemon=True)
    listener.start()
    current, began = "start", time.monotonic()
    while True:
        try:
            report = reports.get(timeout=seconds)
        except queue.Empty:
            problem = (
                f"it did not end within {seconds:g} s; in the adapter it would block its AE title, or be abandoned"
            )
            yield Trial(trial=current, seconds=round(time.monotonic() - began, 3), problem=problem)
            process.kill()
            listener.join()
            return
        if report is None:
            break
        if "begins" in report:
            current, began = report["begins"], time.monotonic()
        else:
            yield Trial(**report)
            current = ""
    listener.join()
    status = process.wait()
    if current or status:
        problem = f"it ended the process with status {status}; in the adapter this would end the whole host"
        yield Trial(trial=current or "end", seconds=round(time.monotonic() - began, 3), problem=problem)


def _listen(lines: IO[str], reports: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in iter(lines.readline, ""):
        reports.put(json.loads(line))
    reports.put(None)
