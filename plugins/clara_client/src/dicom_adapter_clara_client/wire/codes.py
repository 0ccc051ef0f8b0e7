"""The header codes of the Clara Platform API, and its times: whole seconds since 0001-01-01, UTC."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from enum import IntEnum

ZERO = datetime(1, 1, 1, tzinfo=timezone.utc)


class ClaraCode(IntEnum):
    """`ResponseHeader.code`: 0 is success, negative an error, positive a success with a count or in part.

    The published list ends in the middle of the jobs. The names under "ours" are what the emulator says instead; a
    client must take any negative code for a failure, and must not rely on those. But for one: the two published ranges
    both have "malformed id" at their beginning and "no such" after it, so NO_SUCH_PAYLOAD is taken for the platform's.
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

    # Ours.
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
    """`Timestamp.value` of a time; the part below a second is cut off."""
    return (time - ZERO) // timedelta(seconds=1)


def time_of(seconds: int) -> datetime:
    """The time, UTC, of a `Timestamp.value`. Raises OverflowError for what no calendar holds."""
    return ZERO + timedelta(seconds=seconds)
