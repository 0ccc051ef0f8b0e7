"""The table of the ledger that connects delivery jobs with attachments, in addition to those of `schema`."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Integer, Table, Text, text

from dicom_adapter.ledger.schema import metadata

job_attachments = Table(
    "job_attachments",
    metadata,
    Column("job_number", ForeignKey("jobs.job_number", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),  # 0-based
    Column("attachment_number", ForeignKey("attachments.attachment_number"), nullable=False, index=True),
    Column("file_name", Text, nullable=False),  # see `AttachmentUpload`
    Column("uploaded", Boolean, nullable=False, server_default=text("0")),
)
