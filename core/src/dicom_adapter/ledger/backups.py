"""Copies of the ledger for backups: copy it while it is used, find the objects that it needs, and change the copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, bindparam, create_engine, delete, exists, func, or_, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from dicom_adapter.api.errors import LedgerError
from dicom_adapter.api.values import JobState
from dicom_adapter.ledger import instances as instance_changes
from dicom_adapter.ledger.attachment_schema import job_attachments
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import (
    IS_HELD,
    IS_PENDING,
    IS_QUARANTINED,
    IS_RELEASED,
    IS_RESULT,
    IS_UNFINISHED,
    attachments,
    health,
    instances,
    job_instances,
    jobs,
)

NO_ATTACHMENTS = (
    "the backup from which the ledger was restored has no attachments; a retry delivers the DICOM results without them"
)
PAGES = 4096  # number of database pages that are copied at a time
SQLITE_MAGIC = b"SQLite format 3\0"  # the first bytes of a database file

CopyProgress = Callable[[int, int], None]  # arguments: number of copied pages, number of all pages

_IDS = select(instances.c.instance_id)
_KEPT_RESULTS = _IDS.where(IS_RELEASED, IS_RESULT)  # their objects may be the only copies
_IDS_IN_JOBS = (
    select(job_instances.c.instance_id)
    .join(jobs, jobs.c.job_number == job_instances.c.job_number)
    .where(or_(IS_UNFINISHED, IS_HELD))
)


def copy_snapshot(transaction: Transaction, target: Path, on_progress: CopyProgress) -> None:
    """Copy the ledger as this reading transaction sees it to a new file (SQLite's online backup API).

    Other processes may write meanwhile. Raises LedgerError.
    """
    driver = transaction.dialect.loaded_dbapi
    source = transaction.connection.driver_connection
    assert source is not None  # the transaction is open
    try:
        with closing(driver.connect(str(target))) as copy:
            source.backup(copy, pages=PAGES, progress=lambda _status, left, total: on_progress(total - left, total))
    except driver.Error as failure:
        raise LedgerError(f"the copy {target} of the database cannot be made: {failure}") from None


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database, which another program may use, to a new file. Raises LedgerError."""
    # Read-only: a database that was just deleted must not be created again.
    engine = create_engine(URL.create("sqlite", database=f"file:{quote(str(source))}?mode=ro", query={"uri": "true"}))
    try:
        with engine.connect() as connection:
            copy_snapshot(connection, target, lambda _done, _total: None)
    except SQLAlchemyError as failure:
        raise LedgerError(f"the database {source} cannot be copied ({type(failure).__name__})") from None
    finally:
        engine.dispose()


def is_database(beginning: bytes) -> bool:
    """Return whether a file with this beginning is a SQLite database."""
    return beginning.startswith(SQLITE_MAGIC)


def needed_instance_ids(transaction: Transaction) -> set[int]:
    """Return the ids of all instances whose objects are needed by a processor, an operator or a job, and of results."""
    needed: set[int] = set()
    for query in (_IDS.where(IS_PENDING), _IDS.where(IS_QUARANTINED), _KEPT_RESULTS, _IDS_IN_JOBS):
        needed.update(transaction.execute(query).scalars())
    return needed


def needed_bytes(transaction: Transaction) -> int:
    """Return an upper limit of the total size of the stored objects."""
    query = select(func.sum(instances.c.size_bytes)).where(or_(IS_PENDING, IS_QUARANTINED, IS_RELEASED))
    return transaction.execute(query).scalar() or 0


def file_bytes(transaction: Transaction) -> int:
    """Return the size of the ledger's file."""
    pages, page_bytes = (
        transaction.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size")
    )
    return int(pages) * int(page_bytes)


def is_needed(transaction: Transaction, instance_id: int) -> bool:
    """Return whether the object of an instance is needed, see `needed_instance_ids`."""
    is_own = or_(IS_PENDING, IS_QUARANTINED, IS_RELEASED & IS_RESULT)
    own = _IDS.where(is_own, instances.c.instance_id == instance_id)
    of_job = _IDS_IN_JOBS.where(job_instances.c.instance_id == instance_id)
    return any(transaction.execute(query.limit(1)).first() is not None for query in (own, of_job))


def mark_unneeded_reclaimed(transaction: Transaction, needed: set[int], at: datetime) -> None:
    """Mark the released instances that are not needed as reclaimed: a backup does not contain their objects."""
    released = transaction.execute(_IDS.where(IS_RELEASED)).scalars()
    instance_changes.mark_reclaimed(transaction, [each for each in released if each not in needed], at)


def set_storage_keys(transaction: Transaction, keys: Mapping[int, str]) -> None:
    """Set the storage keys of instances, by their ids."""
    change = update(instances).where(instances.c.instance_id == bindparam("id"))
    rows = [{"id": instance_id, "key": key} for instance_id, key in keys.items()]
    if rows:
        transaction.execute(change.values(storage_key=bindparam("key")), rows)


def mark_steps_attempted(transaction: Transaction) -> None:
    """Record that the next step of each job that is not finished may have been executed after the backup was made."""
    transaction.execute(update(jobs).where(or_(IS_UNFINISHED, IS_HELD)).values(repeated=True))


def delete_attachments(transaction: Transaction) -> None:
    """Delete the rows of attachments: a backup does not contain their objects.

    Jobs that still have to deliver attachments are faulted: an operator decides whether they deliver the rest.
    """
    is_missing = exists().where(job_attachments.c.job_number == jobs.c.job_number, ~job_attachments.c.uploaded)
    held = update(jobs).where(IS_HELD, is_missing).values(last_error=NO_ATTACHMENTS)
    faulted = {"state": JobState.FAULTED.value, "faulted_in": jobs.c.state, "next_attempt_at": None}
    unfinished = update(jobs).where(IS_UNFINISHED, is_missing).values(last_error=NO_ATTACHMENTS, **faulted)
    count = update(jobs).where(jobs.c.attachment_count > 0).values(attachment_count=0)
    for change in (held, unfinished, count, delete(job_attachments), delete(attachments)):
        transaction.execute(change)


def delete_health(transaction: Transaction) -> None:
    """Delete the health of the processes that used the original."""
    transaction.execute(delete(health))
