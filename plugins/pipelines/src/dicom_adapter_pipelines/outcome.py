"""`Outcome`: how a run ended, as the file `outcome.json` of the job folder, and `Attempts`: how often it began."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path

from attrs import asdict, frozen

from dicom_adapter_pipelines.durable_files import write_file

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # changes with each start of the machine


class OutcomeState(str, Enum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@frozen(kw_only=True)
class Outcome:
    """The end of a run. It has no names of files and no text of the command, which may be patient data."""

    state: OutcomeState
    reason: str = ""  # why the run has failed, and the next step; "" after a success
    exit_status: int | None = None  # of the process; None if a signal ended it, or it never began
    signal: int | None = None  # number of the signal that ended the process
    started_at: str = ""  # time in UTC at which the process was started, ISO 8601; "" if it never began
    ended_at: str = ""  # time in UTC, ISO 8601
    attempt: int = 1  # number of the run of the process: more than 1 after interruptions
    outputs: int = 0  # number of output files
    output_bytes: int = 0  # their total size
    log_bytes: int = 0  # number of bytes that the process printed, including those that are not kept
    left_behind: int = 0  # number of processes that had to be ended because the process left them running

    def save(self, path: Path) -> None:
        write_file(path, json.dumps(asdict(self), indent=1).encode())


def load_outcome(path: Path) -> Outcome | None:
    """Read a file that `save` wrote; None if the run has not ended."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return Outcome(**{**values, "state": OutcomeState(values["state"])})


@frozen(kw_only=True)
class Attempts:
    """The number of times that the process was started, recorded before each start."""

    count: int
    boot_id: str  # of the machine's start in which the last attempt began
    started_at: str  # time in UTC of the last attempt, ISO 8601

    def save(self, path: Path) -> None:
        write_file(path, json.dumps(asdict(self), indent=1).encode())


def load_attempts(path: Path) -> Attempts | None:
    """Read a file that `save` wrote; None if the process was never started."""
    try:
        return Attempts(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None


def boot_id() -> str:
    """Return the id of the machine's current start; "" where the system has none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
