"""A composer's record of each request to the cache. See also `records`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

from faults.records import read_requests

COMPOSED = 201  # HTTP statuses
DELETED = 204
NOT_FOUND = 404
CONFLICT = 409
UNAVAILABLE = 503  # nothing was changed: the request is repeated
REFUSALS = (NOT_FOUND, CONFLICT)


@frozen(kw_only=True)
class Order:
    """A job that a composer orders, with one Idempotency-Key, which is also the job's name."""

    key: str
    studies: tuple[str, ...] = field(converter=tuple)
    pipeline: str
    submitter: str | None = None  # None: the submitter of the AE title
    keep: bool = True  # False: the studies are deleted when the job is submitted
    insist: bool = False  # True: studies that are still arriving are no reason to refuse the order


@frozen(kw_only=True)
class Call:
    """One request for a job, as the composer recorded it."""

    order: Order
    began: float  # seconds since 1970, before the first byte was sent
    status: int | None = None  # of the response; None without a response
    answered: float | None = None  # seconds since 1970, when the response was received
    job_id: str = ""
    problem: str = ""  # the `type` of a refusal

    @property
    def is_definite(self) -> bool:
        """Return whether the response is final for the order."""
        return self.status not in (None, UNAVAILABLE)


@frozen(kw_only=True)
class Deletion:
    """One request to delete a study."""

    study: str
    began: float
    status: int | None = None
    answered: float | None = None


@frozen(kw_only=True)
class Orders:
    """The records of composers, in the order of the requests."""

    calls: tuple[Call, ...] = ()
    deletions: tuple[Deletion, ...] = ()


def read_orders(path: Path) -> Orders:
    """Read the record of a composer."""
    requests = read_requests(path)[0] if path.exists() else []
    calls = [_call(**request) for request in requests if "order" in request]
    deletions = [Deletion(**request) for request in requests if "study" in request]
    return Orders(calls=tuple(calls), deletions=tuple(deletions))


def _call(order: dict[str, str | Sequence[str] | bool], **fields: float | str) -> Call:
    return Call(order=Order(**order), **fields)  # type: ignore[arg-type] # as they were recorded
