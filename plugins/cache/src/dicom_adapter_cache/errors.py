"""Errors of requests to the cache: one class for each reaction that the client needs.

`kind` is a stable identifier for programs. `members` name the objects that cause the error. Both contain only
values of the request, never other patient data.
"""

from __future__ import annotations

from typing import ClassVar

from dicom_adapter import Refused


class CacheError(Refused):
    """A request cannot be carried out, and nothing has changed."""

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
    """Several AE titles have the object, or the selected objects are at several AE titles."""

    kind = "ambiguous-ae-title"


class StillArriving(CacheError):
    """A selected study received an instance less than `settle` seconds ago."""

    kind = "still-arriving"


class PatientConflict(CacheError):
    """The instances of a selected study disagree about the patient."""

    kind = "patient-conflict"


class KeyReused(CacheError):
    """The Idempotency-Key was used for another request."""

    kind = "idempotency-key-reused"
