"""Errors in families, by what the caller should do: retry, give up, or refuse the input.

Messages name the subject, the broken rule and the next step. They never contain patient data, because they are written
to logs and to the ledger.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})  # no descriptors or no memory
NO_RESOURCES_TEXT = "the system has no free file descriptors or memory"
MAX_CAUSES = 10  # number of errors in a chain of causes that are examined
SHOWN_FRAMES = 3  # number of innermost frames of a traceback in a failure description


class DicomAdapterError(Exception):
    """Base class of all errors that dicom-adapter and its plugins raise on purpose."""


# --- retry: the same call may succeed later -------------------------------------------------------------------------


class Retriable(DicomAdapterError):
    """A transient failure: the core retries the call with back-off.

    A processor raises this error if a resource that it needs is not available. The turn is repeated until it succeeds;
    no instance is quarantined and the lane is not stopped because of the error.
    """


class StorageUnavailable(Retriable):
    """The storage is missing, or is not the one that was opened. C-STORE status: *out of resources*, 0xA700."""


# --- give up: repeating the same call is pointless ------------------------------------------------------------------


class Permanent(DicomAdapterError):
    """A failure that a retry cannot fix: the job becomes faulted at once, and operators see it."""


class StoredObjectMissing(Permanent):
    """The storage backend has no object with this storage key."""


# --- refuse: this input cannot be accepted --------------------------------------------------------------------------


class Refused(DicomAdapterError):
    """The input cannot be accepted; nothing was stored or changed."""


class Unprocessable(Refused):
    """A processor can never handle the instance. The host quarantines the instance, with the message as reason."""


class IllegalTransition(Refused):
    """The state of the job does not allow this step."""


class StorageFull(Refused):
    """The storage backend has no space for the data set. C-STORE status: *out of resources*, 0xA700 (PS3.4 B.2.3).

    The error is not `Retriable`: the sender repeats the request, the core does not repeat the call.
    """


class ConfigurationError(Refused):
    """The configuration cannot be used. `problems` lists all problems, not only the first one."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# --- the ledger: the subclass determines what the caller should do ---------------------------------------------------


class LedgerError(DicomAdapterError):
    """A transaction on the ledger failed. The message never quotes the values of a statement: they are patient data."""


class LedgerUnavailable(LedgerError, Retriable):
    """The ledger is full, busy or broken. The same transaction may succeed later."""

    def __init__(self, reason: str, *, is_full: bool = False, is_busy: bool = False, is_io_error: bool = False) -> None:
        super().__init__(f"the ledger is not available: {reason}")
        self.reason = reason  # error message of the database, without values
        self.is_full = is_full  # the disk or the disk quota of the ledger is full
        self.is_busy = is_busy  # another transaction was writing; nothing was changed
        # A disk failed: rows that were not durable may be lost, even if a later sync succeeds, because the system
        # reports a failed write only once.
        self.is_io_error = is_io_error


class LedgerReplaced(LedgerUnavailable, StorageUnavailable):
    """The file of the ledger was deleted or replaced while it was open. Writes to the open file would be lost."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; put the file back, or restart the service")


class RowRejected(LedgerError):
    """The values of a row break a constraint or have the wrong type. Other rows can still be written."""

    def __init__(self, kind: str) -> None:
        """`kind`: class name of the database's error, which contains no values."""
        super().__init__(f"the ledger rejected a row ({kind})")


# --- functions that examine errors ----------------------------------------------------------------------------------


def describe_failure(error: BaseException) -> str:
    """Return the type of an error and its innermost locations, but not its message, which may contain patient data.

    Frames of modules with `__plumbing__ = True` are omitted: these modules only pass calls on to plugins.
    """
    frames = traceback.walk_tb(error.__traceback__)
    shown = [(frame.f_code, line) for frame, line in frames if not frame.f_globals.get("__plumbing__")][-SHOWN_FRAMES:]
    where = " > ".join(f"{Path(code.co_filename).name}:{line} {code.co_name}" for code, line in shown)
    return f"{type(error).__name__} at {where}" if where else type(error).__name__


def reports_busy_ledger(failure: Exception) -> bool:
    """Return whether the failure reports that another program locks the ledger."""
    return isinstance(failure, LedgerUnavailable) and failure.is_busy


def reports_no_free_space(failure: Exception) -> bool:
    """Return whether the failure reports that the storage or the ledger has no free space (disk or quota full)."""
    if isinstance(failure, LedgerUnavailable):
        return failure.is_full
    return isinstance(failure, StorageFull) or getattr(failure, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def reports_no_resources(failure: BaseException) -> bool:
    """Return whether the failure, or its cause, reports that the system has no free file descriptors or memory.

    The same call may succeed later. MemoryError does not count: a wrong length in a data set can cause it.
    """
    cause: BaseException | None = failure
    for _number in range(MAX_CAUSES):
        if cause is None:
            return False
        if isinstance(cause, OSError) and cause.errno in NO_RESOURCES:
            return True
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False
