"""Table of the ledger about clean-ups, in addition to those of `schema`."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, Table, Text

from dicom_adapter.ledger.column_types import RowId, UtcDateTime
from dicom_adapter.ledger.schema import metadata

# The runs that have ended and that the platform has not cleaned up yet.
clean_ups = Table(
    "clean_ups",
    metadata,
    Column("clean_up_number", RowId, primary_key=True, autoincrement=True),
    Column("job_number", ForeignKey("jobs.job_number", ondelete="CASCADE"), nullable=False, index=True),
    Column("submitter", Text, nullable=False),
    Column("run", Integer, nullable=False),  # number of the run to clean up
    Column("platform_job_id", Text, nullable=False),  # of this run: a job has only the ids of its last run
    Column("platform_payload_id", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),  # failed attempts
    Column("next_attempt_at", UtcDateTime, nullable=True),  # None: as soon as possible
    Column("last_error", Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)
Index("clean_ups_by_time", clean_ups.c.submitter, clean_ups.c.next_attempt_at)
