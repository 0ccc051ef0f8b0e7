"""Reports about associations for job processors: written by receivers, read by lanes in the order of arrivals.

Statements that are executed for each association are passed to the driver directly, as in `arrivals`: there may be
hundreds of associations per second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Row, bindparam, exists, func, select

from dicom_adapter.api.values import AssociationReport, AssociationStatus
from dicom_adapter.ledger.association_schema import association_reports, open_associations
from dicom_adapter.ledger.connection import Transaction, as_sqlalchemy_error
from dicom_adapter.ledger.microseconds import to_microseconds
from dicom_adapter.ledger.schema import IS_PENDING, instances

END_WAIT = "end-wait"  # state of a row that is no report: an operator does not expect more instances of its studies
NO_ASSOCIATION = ""  # `association_id` of a row with this state

_OPEN = (
    "INSERT INTO open_associations (association_id, receiver, ae_title, calling_ae_title, peer_address, began_at, "
    "first_instance_id) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_OPENED = "SELECT first_instance_id FROM open_associations WHERE association_id = ?"
_CLOSE = "DELETE FROM open_associations WHERE association_id = ?"
_LAST_INSTANCE = "SELECT COALESCE(MAX(instance_id), 0) FROM instances"
_COUNT_UNRELEASED = (
    "INSERT INTO unreleased_associations (ae_title, calling_ae_title, count, changed_at) VALUES (?, ?, 1, ?) "
    "ON CONFLICT (ae_title, calling_ae_title) DO UPDATE SET count = count + 1, changed_at = excluded.changed_at "
    "RETURNING count"
)
_FORGET_UNRELEASED = "DELETE FROM unreleased_associations WHERE ae_title = ? AND calling_ae_title = ?"
_INSERT = (
    "INSERT INTO association_reports (ae_title, calling_ae_title, peer_address, association_id, state, began_at, at, "
    "acknowledged, failed, cut_off, studies, all_studies_known, all_counted, unreleased_in_a_row, first_instance_id, "
    "last_instance_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@frozen(kw_only=True)
class ReportRow:
    """A report, or a request of an operator, in the order of arrivals."""

    number: int
    after: int  # id of the last instance that is delivered before this row
    at: datetime  # UTC; time of the event or of the request; the lane delivers the row at this time
    report: AssociationReport | None = None  # None: an operator does not expect more instances of `studies`
    studies: tuple[str, ...] = ()  # Study Instance UIDs, if there is no report


@frozen(kw_only=True)
class OpenAssociation:
    """An association with stored instances whose end is not recorded yet."""

    association_id: str
    receiver: str
    ae_title: str
    calling_ae_title: str
    peer_address: str
    began_at: int  # microseconds since 1970-01-01 UTC; arrival of the first stored instance
    first_instance_id: int  # id of the first stored instance


def open_all(transaction: Transaction, opened: Iterable[OpenAssociation]) -> None:
    """Record associations whose first instances have just been stored."""
    with _driver(transaction) as cursor:
        cursor.executemany(
            _OPEN,
            [
                (
                    one.association_id,
                    one.receiver,
                    one.ae_title,
                    one.calling_ae_title,
                    one.peer_address,
                    one.began_at,
                    one.first_instance_id,
                )
                for one in opened
            ],
        )


def record(transaction: Transaction, reports: Iterable[AssociationReport]) -> None:
    """Record reports in this order. Their instances must be committed already, or in this transaction.

    `unreleased_in_a_row` of the reports is ignored and computed from the earlier associations of the sender.
    """
    with _driver(transaction) as cursor:
        [last] = cursor.execute(_LAST_INSTANCE).fetchone()
        for report in reports:
            _record(cursor, report, last)


def _record(cursor: Any, report: AssociationReport, last: int) -> None:
    is_open = report.status is AssociationStatus.OPEN
    opened = cursor.execute(_OPENED, (report.association_id,)).fetchone()
    if not is_open and opened is not None:
        cursor.execute(_CLOSE, (report.association_id,))
    # The report is kept while an instance from `first` to `last` is pending. After a failure, `first`
    # is 0: the failed instance belongs to a group that may be older than the association. If nothing was stored, the
    # range is empty.
    first = 0 if report.is_incomplete or report.studies else last + 1 if opened is None else opened[0]
    cursor.execute(
        _INSERT,
        (
            report.ae_title,
            report.calling_ae_title,
            report.peer_address,
            report.association_id,
            report.status.value,
            to_microseconds(report.began_at),
            to_microseconds(report.at),
            report.acknowledged,
            orjson.dumps(dict(report.failed)).decode(),
            report.cut_off,
            orjson.dumps(report.studies).decode(),
            report.all_studies_known,
            report.all_counted,
            0 if is_open else _count_unreleased(cursor, report),
            first,
            last,
        ),
    )


def _count_unreleased(cursor: Any, report: AssociationReport) -> int:
    sender = (report.ae_title, report.calling_ae_title)
    if report.status is AssociationStatus.RELEASED or report.is_incomplete:
        cursor.execute(_FORGET_UNRELEASED, sender)
        return 0
    [count] = cursor.execute(_COUNT_UNRELEASED, (*sender, to_microseconds(report.at))).fetchone()
    return int(count)


def lose_open(
    transaction: Transaction, receiver: str, receivers: Collection[str], now: datetime
) -> list[AssociationReport]:
    """Record as lost the associations that were open when their receiver ended; return the reports.

    These are the associations of the receiver `receiver`, and of receivers that are not among `receivers`.
    """
    is_over = (open_associations.c.receiver == receiver) | open_associations.c.receiver.not_in(list(receivers))
    reports = [
        AssociationReport(
            association_id=row.association_id,
            ae_title=row.ae_title,
            calling_ae_title=row.calling_ae_title,
            peer_address=row.peer_address,
            status=AssociationStatus.LOST,
            began_at=row.began_at,
            at=now,
            acknowledged=0,
            studies=_studies(transaction, row.association_id, row.first_instance_id),
            all_studies_known=False,
            all_counted=False,
        )
        for row in transaction.execute(select(open_associations).where(is_over)).all()
    ]
    record(transaction, reports)
    return reports


def _studies(transaction: Transaction, association_id: str, first_instance_id: int) -> tuple[str, ...]:
    """Return the studies of the instances that an association has stored: more instances of them may be missing.

    Instances in every state count: they may be in a job already, while a group waits for instances of the same study
    from another association.
    """
    stored = (instances.c.instance_id >= first_instance_id) & (instances.c.association_id == association_id)
    return tuple(transaction.execute(select(instances.c.study_instance_uid).where(stored).distinct()).scalars())


def end_wait(transaction: Transaction, ae_title: str, studies: Sequence[str], now: datetime) -> None:
    """Record that an operator does not expect more instances of these studies at an AE title."""
    with _driver(transaction) as cursor:
        [last] = cursor.execute(_LAST_INSTANCE).fetchone()
        moment, listed = to_microseconds(now), orjson.dumps(studies).decode()
        values = (
            ae_title,
            "",  # calling_ae_title
            "",  # peer_address
            NO_ASSOCIATION,
            END_WAIT,
            moment,  # began_at
            moment,  # at
            0,  # acknowledged
            "{}",  # failed
            0,  # cut_off
            listed,
            True,  # all_studies_known
            True,  # all_counted
            0,  # unreleased_in_a_row
            0,  # first_instance_id
            last,
        )
        cursor.execute(_INSERT, values)


# --- reading and deleting ---------------------------------------------------------------------------------------------

_REPORTS = association_reports.c
_AFTER = (
    select(association_reports)
    .where(_REPORTS.ae_title == bindparam("ae_title"), _REPORTS.number > bindparam("number"))
    .order_by(_REPORTS.number)
    .limit(bindparam("limit"))
)
_NEWEST_AFTER = (
    select(_REPORTS.ae_title, func.max(_REPORTS.number))
    .where(_REPORTS.number > bindparam("number"))
    .group_by(_REPORTS.ae_title)
)
_UNNEEDED = (
    select(_REPORTS.number)
    .where(
        _REPORTS.ae_title == bindparam("ae_title"),
        _REPORTS.number <= bindparam("delivered"),
        ~exists().where(
            instances.c.ae_title == _REPORTS.ae_title,
            instances.c.instance_id.between(_REPORTS.first_instance_id, _REPORTS.last_instance_id),
            IS_PENDING,
        ),
    )
    .limit(bindparam("limit"))
)


def after(transaction: Transaction, number: int, limit: int, ae_title: str) -> list[ReportRow]:
    """Return up to `limit` reports and requests for an AE title numbered above `number`, in order."""
    values = {"ae_title": ae_title, "number": number, "limit": limit}
    return [_row(row) for row in transaction.execute(_AFTER, values)]


def newest_after(transaction: Transaction, number: int) -> dict[str, int]:
    """Return the number of the newest report of each AE title that has reports above `number`."""
    return {row[0]: row[1] for row in transaction.execute(_NEWEST_AFTER, {"number": number})}


def last_number(transaction: Transaction) -> int:
    """Return the number of the newest report; 0 if there is none."""
    return transaction.execute(select(func.max(_REPORTS.number))).scalar() or 0


def unneeded(transaction: Transaction, ae_title: str, delivered: int, limit: int) -> list[int]:
    """Return the numbers of up to `limit` rows, not above `delivered`, that concern no pending instance."""
    values = {"ae_title": ae_title, "delivered": delivered, "limit": limit}
    return list(transaction.execute(_UNNEEDED, values).scalars())


def delete_reports(transaction: Transaction, numbers: Sequence[int]) -> None:
    """Delete these reports."""
    with _driver(transaction) as cursor:
        cursor.executemany("DELETE FROM association_reports WHERE number = ?", [(number,) for number in numbers])


def _row(row: Row[Any]) -> ReportRow:
    if row.state == END_WAIT:
        return ReportRow(number=row.number, after=row.last_instance_id, at=row.at, studies=tuple(row.studies))
    report = AssociationReport(
        association_id=row.association_id,
        ae_title=row.ae_title,
        calling_ae_title=row.calling_ae_title,
        peer_address=row.peer_address,
        status=AssociationStatus(row.state),
        began_at=row.began_at,
        at=row.at,
        acknowledged=row.acknowledged,
        failed=row.failed,
        cut_off=row.cut_off,
        studies=tuple(row.studies),
        all_studies_known=row.all_studies_known,
        all_counted=row.all_counted,
        unreleased_in_a_row=row.unreleased_in_a_row,
    )
    return ReportRow(number=row.number, after=row.last_instance_id, at=row.at, report=report)


@contextmanager
def _driver(transaction: Transaction) -> Iterator[Any]:
    """Context manager: a cursor of the driver. Its errors are raised as those of SQLAlchemy."""
    cursor = transaction.connection.cursor()
    try:
        yield cursor
    except transaction.dialect.loaded_dbapi.Error as failure:
        raise as_sqlalchemy_error(transaction, failure) from failure
    finally:
        cursor.close()
