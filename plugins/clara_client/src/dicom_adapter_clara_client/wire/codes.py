"""Header codes and times of the Clara Platform API. Times are whole seconds since 0001-01-01, UTC."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from enum import IntEnum

ZERO = datetime(1, 1, 1, tzinfo=timezone.utc)


class ClaraCode(IntEnum):
    """`ResponseHeader.code`: 0 is success; negative is an error; positive is success with a count, or partial success.

    The published list is incomplete: it ends within the codes of jobs. The codes under "Emulator only" are not
    published; a client must treat any negative code as an error and not rely on them. NO_SUCH_PAYLOAD is an exception:
    both published ranges start with "malformed id" and "no such", so the platform probably uses this code.
    """

    OK = 0

    PIPELINE_ID_MALFORMED = -0x1000
    NO_SUCH_PIPELINE = -0x1001
    PIPELINE_NOT_STORED = -0x1002
    PIPELINES_NOT_LISTED = -0x1003
    PIPELINE_NOT_UPDATED = -0x1004
    DEFINITION_MALFORMED = -0x1100
    DEFINITION_NOT_LOADED = -0x1101
    JOB_ID_MALFORMED = -0x2000
    NO_SUCH_JOB = -0x2001
    JOB_NOT_STORED = -0x2002
    JOBS_NOT_LISTED = -0x2003
    JOB_NAME_INVALID = -0x2100

    # Emulator only.
    PIPELINE_METADATA_REFUSED = -0x1900
    JOB_NOT_PENDING = -0x2900
    JOB_METADATA_REFUSED = -0x2901
    JOB_PRIORITY_INVALID = -0x2902
    JOB_INPUT_REFUSED = -0x2903
    PAYLOAD_ID_MALFORMED = -0x3000
    NO_SUCH_PAYLOAD = -0x3001
    PAYLOAD_NOT_STORED = -0x3002
    NO_SUCH_FILE = -0x3100
    FILE_NAME_INVALID = -0x3101
    FILE_NAME_TAKEN = -0x3102
    PAYLOAD_READ_ONLY = -0x3900
    PAYLOAD_METADATA_REFUSED = -0x3901
    INTERNAL = -0x7FFF


def seconds_of(time: datetime) -> int:
    """Return the `Timestamp.value` of a time, rounded down to a second."""
    return (time - ZERO) // timedelta(seconds=1)


def time_of(seconds: int) -> datetime:
    """Return the UTC time of a `Timestamp.value`. Raises OverflowError if datetime cannot represent it."""
    return ZERO + timedelta(seconds=seconds)
