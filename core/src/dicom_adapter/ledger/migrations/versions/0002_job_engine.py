"""Columns of the job engine: repeated steps, the state in which a job faulted, cancellation, status on the platform.

`ledger.schema` explains the columns.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

UNFINISHED = sa.text("state IN ('queued', 'created', 'metadata-sent', 'uploaded')")


def upgrade() -> None:
    for name in ("repeated", "cancel_requested", "platform_finished"):
        op.add_column("jobs", sa.Column(name, sa.Boolean(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("faulted_in", sa.String(length=16), nullable=True))
    for name in ("platform_state", "platform_detail"):
        op.add_column("jobs", sa.Column(name, sa.Text(), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("platform_asked_at", sa.BigInteger(), nullable=True))
    op.drop_index("unfinished_jobs", "jobs")
    op.create_index(
        "unfinished_jobs",
        "jobs",
        ["submitter", "ae_title", "priority", "job_number", "next_attempt_at"],
        sqlite_where=UNFINISHED,
        postgresql_where=UNFINISHED,
    )
    op.create_index(
        "started_jobs",
        "jobs",
        ["submitter", "platform_asked_at"],
        sqlite_where=sa.text("state = 'submitted' AND platform_finished = 0"),
        postgresql_where=sa.text("state = 'submitted' AND NOT platform_finished"),
    )
