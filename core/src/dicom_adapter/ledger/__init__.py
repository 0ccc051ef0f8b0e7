"""The ledger: the database of all instances, jobs and events.

`connection` opens it. One module for each noun (`instances`, `jobs`, `lanes`, `events`, `counters`, …) has the queries
and changes, as functions of a transaction. `history` deletes old rows; `balance` has the queries of the audit.
`plain` opens it without SQLAlchemy, for processes that write few rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dicom_adapter.ledger.ledger_file import WAIT_SECONDS

if TYPE_CHECKING:
    from dicom_adapter.ledger.connection import Ledger, Transaction

__all__ = ["WAIT_SECONDS", "Ledger", "Transaction"]


def __getattr__(name: str) -> Any:
    """Import `Ledger` and `Transaction` when they are used first: they need SQLAlchemy, which the supervisor avoids."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dicom_adapter.ledger import connection

    return getattr(connection, name)
