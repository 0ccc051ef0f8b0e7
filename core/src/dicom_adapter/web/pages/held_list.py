"""The quarantine: instances and results that wait for an operator, by reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from attrs import frozen

from dicom_adapter.ledger import Transaction, instance_rows
from dicom_adapter.ledger import results as ledger_results
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.held import count_held
from dicom_adapter.ledger.instance_rows import InstanceRow
from dicom_adapter.ledger.results import ResultRow
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.web.pages.job_list import number_in

PAGE_ROWS = 100


@frozen(kw_only=True)
class HeldLine:
    """A quarantined instance or result."""

    number: int
    ae_title: str
    since: datetime
    reason: str
    study: str
    sop_instance: str
    sender: str  # calling AE title of an instance; "" for a result
    job: str  # id of the job that has produced a result; "" for an instance
    size: int  # bytes


@frozen(kw_only=True)
class HeldTable:
    """Quarantined instances, or quarantined results."""

    kind: str  # "instances" or "results"
    title: str
    lines: Sequence[HeldLine]
    older: str  # link to the next page; "" if there is none


@frozen(kw_only=True)
class QuarantineContent:
    """The page of the quarantine."""

    ae_title: str  # the filter; "": all
    ae_titles: Mapping[str, int]  # number of quarantined instances and results of each AE title that has any
    tables: Sequence[HeldTable]

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is quarantined."""
        return not any(table.lines for table in self.tables)


def quarantine_page(transaction: Transaction, query: Mapping[str, str]) -> QuarantineContent:
    """Return the page of the quarantine, with the filter of the address."""
    ae_title = query.get("ae-title", "")
    filters = Filters(ae_title=ae_title or None)
    held = {name: one.quarantined + one.results for name, one in count_held(transaction).items()}
    own = instance_rows.newest(
        transaction,
        PAGE_ROWS + 1,
        state=InstanceState.QUARANTINED,
        filters=filters,
        before=number_in(query.get("before", "")),
    )
    produced = ledger_results.newest(
        transaction,
        PAGE_ROWS + 1,
        state=InstanceState.QUARANTINED,
        filters=filters,
        before=number_in(query.get("results-before", "")),
    )
    return QuarantineContent(
        ae_title=ae_title,
        ae_titles={name: count for name, count in held.items() if count},
        tables=[
            view_held("instances", "Instances", [line_of_instance(row) for row in own], "before", ae_title),
            view_held("results", "Results", [line_of_result(row) for row in produced], "results-before", ae_title),
        ],
    )


def view_held(kind: str, title: str, lines: Sequence[HeldLine], cursor: str, ae_title: str) -> HeldTable:
    """Return a table. `lines`: one more than a page has, if there are more. `cursor`: key of the next page's link."""
    shown = lines[:PAGE_ROWS]
    query = {"ae-title": ae_title} if ae_title else {}
    more = f"/quarantine?{urlencode({**query, cursor: shown[-1].number})}" if len(lines) > len(shown) else ""
    return HeldTable(kind=kind, title=title, lines=shown, older=more)


def line_of_instance(row: InstanceRow) -> HeldLine:
    """Return a quarantined instance as the page shows it."""
    instance = row.instance
    return HeldLine(
        number=instance.instance_id,
        ae_title=instance.ae_title,
        since=row.changed_at,
        reason=row.reason,
        study=instance.study_instance_uid,
        sop_instance=instance.sop_instance_uid,
        sender=instance.calling_ae_title,
        job="",
        size=instance.size_bytes,
    )


def line_of_result(row: ResultRow) -> HeldLine:
    """Return a quarantined result as the page shows it."""
    instance = row.instance
    return HeldLine(
        number=instance.instance_id,
        ae_title=instance.ae_title,
        since=row.changed_at,
        reason=row.reason,
        study=instance.study_instance_uid,
        sop_instance=instance.sop_instance_uid,
        sender="",
        job=row.job_id,
        size=instance.size_bytes,
    )
