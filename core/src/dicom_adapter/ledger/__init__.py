"""The ledger: the database of all instances, jobs and events.

`connection` opens it. One module for each noun (`instances`, `jobs`, `lanes`, `events`, `counters`, …) has the queries
and changes, as functions of a transaction. `history` deletes old rows; `balance` has the queries of the audit.
"""

from dicom_adapter.ledger.connection import WAIT_SECONDS, Ledger, Transaction

__all__ = ["WAIT_SECONDS", "Ledger", "Transaction"]
