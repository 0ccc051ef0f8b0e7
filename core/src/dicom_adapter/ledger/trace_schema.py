"""Table of the ledger about traces, in addition to those of `schema`."""

from __future__ import annotations

from sqlalchemy import Column, Index, String, Table

from dicom_adapter.ledger.column_types import UtcDateTime
from dicom_adapter.ledger.schema import metadata

# The spans to which later spans of an association or a job belong. There are no rows while traces are off.
contexts = Table(
    "trace_contexts",
    metadata,
    Column("subject", String(32), primary_key=True),  # association id or job id
    Column("context", String(55), nullable=False),  # W3C Trace Context, `traceparent`
    Column("recorded_at", UtcDateTime, nullable=False),
)
Index("trace_contexts_by_time", contexts.c.recorded_at)
