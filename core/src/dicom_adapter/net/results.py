"""Results of the SCU, as values that do not depend on pynetdicom."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from attrs import frozen

DEFAULT_TIMEOUT = 30.0  # seconds


class Grouping(Enum):
    """The files that share an association: those of one study, or only one file."""

    STUDY = "study"
    INSTANCE = "instance"


@frozen(kw_only=True)
class SendResult:
    """Result of sending one file."""

    path: Path
    ok: bool  # the peer has stored the file, possibly with a warning
    status: int | None = None  # status of the C-STORE response; None: there was no response
    message: str = ""  # empty for success; never patient data


@frozen(kw_only=True)
class SendSummary:
    """Result of sending all files: `total` is `sent` plus the failures."""

    total: int
    sent: int  # number of stored files, including those with a warning
    warnings: int
    failures: tuple[SendResult, ...]
    associations: int
    gave_up: str | None  # the reason why some files were not sent at all; None: all were tried
