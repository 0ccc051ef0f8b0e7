"""What sending comes to, as values; they know nothing of the libraries that send."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from attrs import frozen

DEFAULT_TIMEOUT = 30.0  # seconds


class Grouping(Enum):
    """Which files share an association, when not all of them do."""

    STUDY = "study"
    INSTANCE = "instance"


@frozen(kw_only=True)
class SendResult:
    """What became of one file."""

    path: Path
    ok: bool  # stored by the peer, perhaps with a warning
    status: int | None = None  # of the C-STORE response, if there was one
    message: str = ""  # empty for success; never patient data


@frozen(kw_only=True)
class SendSummary:
    """What became of all files: `total` is `sent` and the failures."""

    total: int
    sent: int  # those with a warning included
    warnings: int
    failures: tuple[SendResult, ...]
    associations: int
    gave_up: str | None  # why some files were not even tried
