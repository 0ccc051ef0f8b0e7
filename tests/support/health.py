"""The health of a running service, as `status` shows it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.service.launch import LaunchedService

SECONDS = 60  # time limit of each wait


def status(service: LaunchedService, python: str = sys.executable) -> tuple[int, dict[str, Any]]:
    """Run `status`, and return its exit status and its JSON object.

    The command is run in this process if it has the same interpreter: the start of a process takes ten times as long.
    """
    arguments = ["status", "--config", str(service.configuration), "--json"]
    if python == sys.executable:
        result = CliRunner().invoke(app, arguments)
        return result.exit_code, json.loads(result.stdout)
    run = subprocess.run([python, "-m", "dicom_adapter", *arguments], stdout=subprocess.PIPE, check=False)
    return run.returncode, json.loads(run.stdout)


def is_running(configuration: Path) -> bool:
    """Return whether `status` reports a service without red parts."""
    return CliRunner().invoke(app, ["status", str(configuration)]).exit_code == 0


def red(report: dict[str, Any]) -> dict[str, str]:
    """Return the red parts with their reasons."""
    return {each["part"]: each["reason"] for each in report["problems"] if each["level"] == "red"}


def wait_until(
    expected: Callable[[dict[str, str]], bool], service: LaunchedService, python: str = sys.executable
) -> dict[str, Any]:
    """Wait until the red parts and their reasons are as expected. The ledger is updated later than the log."""
    deadline = time.monotonic() + SECONDS
    while True:
        exit_status, report = status(service, python)
        parts = red(report)
        if expected(parts):
            assert bool(parts) == exit_status
            return report
        assert time.monotonic() < deadline, report
        time.sleep(0.1)  # the pause of a loop that has a condition


def wait_until_red(expected: set[str], service: LaunchedService, python: str = sys.executable) -> dict[str, str]:
    """Wait until exactly these parts are red, and return their reasons."""
    return red(wait_until(lambda parts: parts.keys() == expected, service, python))
