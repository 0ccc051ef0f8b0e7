"""Step 4 (`process`) of the flow: count consecutive failed turns; the lane then quarantines an instance, or stops."""

from __future__ import annotations

from itertools import islice
from typing import Any

from attrs import evolve, field, frozen

from dicom_adapter.api.errors import DicomAdapterError, StoredObjectMissing, describe_failure
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.runtime.peer_health import FAILURES_TO_REPORT

BEFORE_ALL_INSTANCES = 0  # less than every instance id, because ids begin with 1


@frozen(kw_only=True)
class Failure:
    """The last of consecutive failed turns."""

    count: int  # number of consecutive failed turns
    # The instance that the turn delivered. None: the turn delivered none. BEFORE_ALL_INSTANCES: the processor could not
    # be built.
    instance_id: int | None
    same_instance: int  # number of consecutive failures of this instance
    reason: str = field(repr=False)


@frozen(kw_only=True)
class Stuck:
    """The last of consecutive turns that could not read the same stored object."""

    instance_id: int  # the instance whose object cannot be read
    handled: int | None  # the instance that the turn delivered; None: the turn delivered none
    tries: int  # number of consecutive turns in which this object could not be read, although another one could
    reason: str


@frozen(kw_only=True)
class Outage:
    """The last of consecutive turns that waited for a resource, such as the ledger or one that the processor needs."""

    count: int
    instance_id: int | None  # as in `Failure`
    error: str = field(repr=False)

    @classmethod
    def after(cls, last: Outage | None, failure: BaseException, instance_id: int | None) -> Outage:
        """Return the outage after another turn that waits. `instance_id`: the instance that it delivered."""
        cause = failure.__cause__ or failure
        error = str(cause) if isinstance(cause, DicomAdapterError) else type(cause).__name__
        return cls(count=1 if last is None else last.count + 1, instance_id=instance_id, error=error)

    @property
    def reason(self) -> str:
        """Why the lane makes no progress; "" for the first waits, which are usually over soon."""
        return f"its turns are retried: {self.error}" if self.count >= FAILURES_TO_REPORT else ""


def is_past(failed: int | None, succeeded: int | None) -> bool:
    """Return whether the turn that succeeded is the turn that failed, or a later turn.

    `failed` and `succeeded` are the instances that the turns delivered; None: the turn delivered none.
    """
    if failed == BEFORE_ALL_INSTANCES:
        return True
    if failed is None or succeeded is None:
        return failed is None and succeeded is None
    return succeeded >= failed


def failed_turn(last: Failure | None, error: BaseException, instance_id: int | None) -> Failure:
    again = last is not None and instance_id is not None and last.instance_id == instance_id
    return Failure(
        count=1 if last is None else last.count + 1,
        instance_id=instance_id,
        same_instance=last.same_instance + 1 if again and last else 1,
        reason=describe_failure(error),
    )


def failed_build(last: Failure | None, error: BaseException) -> Failure:
    """Count a failed build of a processor: return `last` with one more failure, or a first failure.

    Any successful turn clears the first failure.
    """
    if last is not None:
        return evolve(last, count=last.count + 1, reason=describe_failure(error))
    return Failure(count=1, instance_id=BEFORE_ALL_INSTANCES, same_instance=0, reason=describe_failure(error))


OTHERS_TO_READ = 3  # maximum number of other stored objects to try


def can_read_another(storage: StorageBackend[Any], storage_key: str) -> bool:
    """Return whether one of the first few other stored objects can be read."""
    try:
        keys = storage.keys()
        others = islice((key for key in keys if key != storage_key), OTHERS_TO_READ)
        return any(_can_read(storage, key) for key in others)
    except OSError:
        return False


def _can_read(storage: StorageBackend[Any], storage_key: str) -> bool:
    try:
        with storage.read(storage_key) as file:
            return bool(file.read(1))
    except (OSError, StoredObjectMissing):  # missing: reclaimed meanwhile
        return False
