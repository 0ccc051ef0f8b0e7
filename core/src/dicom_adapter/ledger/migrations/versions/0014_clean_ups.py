"""Runs that the platform has to clean up. `ledger.clean_ups` explains the columns."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "clean_ups",
        sa.Column("clean_up_number", number, primary_key=True, autoincrement=True),
        sa.Column("job_number", number, sa.ForeignKey("jobs.job_number", ondelete="CASCADE"), nullable=False),
        sa.Column("submitter", sa.Text(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("platform_job_id", sa.Text(), nullable=False),
        sa.Column("platform_payload_id", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False, server_default=""),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_clean_ups_job_number", "clean_ups", ["job_number"])
    op.create_index("clean_ups_by_time", "clean_ups", ["submitter", "next_attempt_at"])
