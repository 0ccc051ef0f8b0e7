"""What is wrong with a request to the cache, by what whoever asked should do.

`kind` is stable, for programs; `members` say what it is about. Neither holds more than the request itself has named.
"""

from __future__ import annotations

from typing import ClassVar

from dicom_adapter import Refused


class CacheError(Refused):
    """The request cannot be fulfilled; nothing has changed."""

    kind: ClassVar[str]

    def __init__(self, message: str, **members: object) -> None:
        super().__init__(message)
        self.members = members


class NotInCache(CacheError):
    """There is no such patient, study, series, instance or job."""

    kind = "unknown"


class InvalidRequest(CacheError):
    """The request is wrong in itself."""

    kind = "invalid"


class Ambiguous(CacheError):
    """More than one AE title has it, or the selection needs more than one."""

    kind = "ambiguous-ae-title"


class StillArriving(CacheError):
    """Instances of a selected study came a moment ago: wait, or insist."""

    kind = "still-arriving"


class KeyReused(CacheError):
    """The Idempotency-Key was used for another request."""

    kind = "idempotency-key-reused"
