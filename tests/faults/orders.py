"""What a composer writes down of each request to the cache, beside `records`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

from faults.records import read_requests

COMPOSED = 201  # HTTP statuses
DELETED = 204
UNKNOWN = 404
CONFLICT = 409
PASSING = 503  # nothing has happened: ask again
REFUSALS = (UNKNOWN, CONFLICT)


@frozen(kw_only=True)
class Order:
    """A job that a composer wants, under one Idempotency-Key, which is the job's name too."""

    key: str
    studies: tuple[str, ...] = field(converter=tuple)
    pipeline: str
    submitter: str | None = None  # None: the AE title's own
    keep: bool = True
    insist: bool = False


@frozen(kw_only=True)
class Call:
    """One request for a job, as its composer saw it."""

    order: Order
    began: float  # seconds since 1970, before the first byte left
    status: int | None = None  # of the answer; None: there was none
    answered: float | None = None  # when it was there
    job_id: str = ""
    problem: str = ""  # the `type` of a refusal

    @property
    def is_definite(self) -> bool:
        """Whether the answer says what has become of the order."""
        return self.status not in (None, PASSING)


@frozen(kw_only=True)
class Deletion:
    """One request to delete a study."""

    study: str
    began: float
    status: int | None = None
    answered: float | None = None


@frozen(kw_only=True)
class Orders:
    """What composers wrote down, in the order in which it happened."""

    calls: tuple[Call, ...] = ()
    deletions: tuple[Deletion, ...] = ()


def read_orders(path: Path) -> Orders:
    """Everything that a composer wrote into this file."""
    requests = read_requests(path)[0] if path.exists() else []
    calls = [_call(**request) for request in requests if "order" in request]
    deletions = [Deletion(**request) for request in requests if "study" in request]
    return Orders(calls=tuple(calls), deletions=tuple(deletions))


def _call(order: dict[str, str | Sequence[str] | bool], **told: float | str) -> Call:
    return Call(order=Order(**order), **told)  # type: ignore[arg-type] # as they were written
