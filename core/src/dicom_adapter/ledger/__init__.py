"""The ledger: one database that knows every instance, job and event. The files hold the pixels, it holds the truth.

`connection` opens it; `instances`, `jobs`, `lanes`, `events` and `tallies` are its questions and changes, one module
for each noun, as functions of a transaction; `history` is what is forgotten, `accounts` what an audit asks.
"""

from dicom_adapter.ledger.connection import Ledger, Transaction

__all__ = ["Ledger", "Transaction"]
