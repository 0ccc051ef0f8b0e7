"""Errors in families, by what the caller should do: retry, give up, or refuse the input.

Messages name the subject, the rule that was broken and the next step. They never carry patient data, because they
end up in logs and in the ledger.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

# What every call of a plugin goes through tells nobody anything.
MEASURING = str(Path(__file__).parents[1] / "plugins" / "measured.py")


class DicomAdapterError(Exception):
    """Everything that dicom-adapter and its plugins raise on purpose."""


# --- retry: the same call may succeed later -------------------------------------------------------------------------


class Retriable(DicomAdapterError):
    """The call failed for a reason that may pass: the core tries again with back-off.

    From a processor, it says that what the processor itself needs is not there: the turn is taken again, and no
    instance and no lane is given up for that.
    """


# --- give up: repeating the same call is pointless ------------------------------------------------------------------


class Permanent(DicomAdapterError):
    """The call can never succeed as it is: the job is faulted at once and an operator sees it."""


class StoredObjectMissing(Permanent):
    """A storage key names nothing in the storage backend."""


# --- refuse: the input is what is wrong -----------------------------------------------------------------------------


class Refused(DicomAdapterError):
    """What was given cannot be taken; nothing was kept or changed."""


class Unprocessable(Refused):
    """Raised by a processor: it can never take this instance. The host quarantines it with the message as reason."""


class IllegalTransition(Refused):
    """A job was asked for a step that its state does not allow."""


class StorageFull(Refused):
    """The storage backend has no room for the data set (answered as DICOM *out of resources*, 0xA700)."""


class ConfigurationError(Refused):
    """The configuration cannot be used. `problems` lists everything that is wrong with it, not just the first."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def describe_failure(error: BaseException) -> str:
    """The kind of an error and the innermost places where it happened. Not its message: that may quote a patient."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != MEASURING][-3:]
    where = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} at {where}" if where else type(error).__name__


def is_lack_of_room(failure: Exception) -> bool:
    """Whether the disk of storage or ledger is full."""
    full = isinstance(failure, StorageFull) or getattr(failure, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or "disk is full" in str(getattr(failure, "orig", ""))  # SQLite's words, without the statement's values
