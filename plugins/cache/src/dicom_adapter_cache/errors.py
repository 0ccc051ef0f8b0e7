"""Errors of requests to the cache, one class for each action of the client.

`kind` is stable, for programs; `members` name the objects. Neither contains more than the request itself.
"""

from __future__ import annotations

from typing import ClassVar

from dicom_adapter import Refused


class CacheError(Refused):
    """A request that cannot be fulfilled; nothing has changed."""

    kind: ClassVar[str]

    def __init__(self, message: str, **members: object) -> None:
        super().__init__(message)
        self.members = members


class NotInCache(CacheError):
    """The patient, study, series, instance or job does not exist."""

    kind = "unknown"


class InvalidRequest(CacheError):
    """The request is invalid."""

    kind = "invalid"


class Ambiguous(CacheError):
    """More than one AE title has the object, or the selection spans several."""

    kind = "ambiguous-ae-title"


class StillArriving(CacheError):
    """A selected study received instances recently: wait, or set insist."""

    kind = "still-arriving"


class KeyReused(CacheError):
    """The Idempotency-Key was used for another request."""

    kind = "idempotency-key-reused"
