"""Results of jobs: instances with the job that has produced them, and attachments.

`ledger.schema` explains the columns.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("instances", sa.Column("source_job", number, nullable=True))
    op.add_column("instances", sa.Column("output_name", sa.Text(), nullable=True))
    op.add_column("instances", sa.Column("keep_until", sa.BigInteger(), nullable=True))
    is_result = sa.text("source_job IS NOT NULL")
    op.create_index("results_of_job", "instances", ["source_job"], sqlite_where=is_result, postgresql_where=is_result)
    op.create_index(
        "results_by_uid", "instances", ["sop_instance_uid"], sqlite_where=is_result, postgresql_where=is_result
    )
    op.create_table(
        "attachments",
        sa.Column("attachment_number", number, primary_key=True, autoincrement=True),
        sa.Column(
            "job_number",
            number,
            sa.ForeignKey("jobs.job_number", ondelete="SET NULL"),
            nullable=True,
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_attachments_job_number", "attachments", ["job_number"])
