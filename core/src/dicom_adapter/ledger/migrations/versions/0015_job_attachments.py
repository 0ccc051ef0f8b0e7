"""Attachments that delivery jobs deliver. `ledger.attachment_schema` explains the columns."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("jobs", sa.Column("attachment_count", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "job_attachments",
        sa.Column("job_number", number, sa.ForeignKey("jobs.job_number", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("attachment_number", number, sa.ForeignKey("attachments.attachment_number"), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("uploaded", sa.Boolean(), nullable=False, server_default=sa.text("0")),
    )
    op.create_index("ix_job_attachments_attachment_number", "job_attachments", ["attachment_number"])
