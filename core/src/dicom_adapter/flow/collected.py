"""The results of a job, collected and ready to be recorded. Step 5 (`submit`) records them with the job's success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from dicom_adapter.api.submitter import Submitter
from dicom_adapter.ledger import Transaction
from dicom_adapter.ledger.jobs import JobRow


def _commit_nothing(_transaction: Transaction, _row: JobRow) -> None: ...


def _do_nothing() -> None: ...


@frozen(kw_only=True)
class Collected:
    """The results of one job, whose objects are synced in the storage backend."""

    # Inserts the rows, in the transaction in which the job becomes succeeded or failed. The second argument is the
    # row of the job before this change.
    commit: Callable[[Transaction, JobRow], None] = _commit_nothing
    committed: Callable[[], None] = _do_nothing  # called after the transaction, for example to wake other parts
    abandoned: Callable[[], None] = _do_nothing  # called if the transaction failed: the results are collected again
    # Why the job has failed although the platform reports success, for example because an expected output is missing.
    # Without patient data; "" if the job has succeeded.
    failure: str = ""


# Streams the outputs of a job that has succeeded on the platform (`submitter.results(row.job)`) into the storage
# backend, and checks them. It is called again after an error and after a crash. Errors: Retriable and
# Permanent, as of a submitter; LedgerError, and OSError of the storage backend, after which the call is repeated. Any
# other exception is a bug.
Collect = Callable[[JobRow, Submitter[Any]], Collected]


def collect_nothing(_row: JobRow, _submitter: Submitter[Any]) -> Collected:
    """Return no results."""
    return Collected()
