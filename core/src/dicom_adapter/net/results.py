"""Results of the SCU as values, independent of the library that sends."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from attrs import frozen

DEFAULT_TIMEOUT = 30.0  # seconds


class Grouping(Enum):
    """Grouping of files by association: the files of one study, or each file alone, share an association."""

    STUDY = "study"
    INSTANCE = "instance"


@frozen(kw_only=True)
class SendResult:
    """Result of sending one file."""

    path: Path
    ok: bool  # stored by the peer, possibly with a warning
    status: int | None = None  # of the C-STORE response, if there was one
    message: str = ""  # empty for success; never patient data


@frozen(kw_only=True)
class SendSummary:
    """Result of sending all files: `total` is `sent` plus the failures."""

    total: int
    sent: int  # including those with a warning
    warnings: int
    failures: tuple[SendResult, ...]
    associations: int
    gave_up: str | None  # reason why some files were not tried
