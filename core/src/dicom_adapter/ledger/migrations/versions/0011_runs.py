"""Jobs that are followed until their end on the platform, in one or more runs. `ledger.schema` explains the columns."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

UNFINISHED = "state IN ('queued', 'created', 'metadata-sent', 'uploaded', 'running')"
STARTED = "state IN ('submitted', 'running') AND platform_finished = 0"
BEGUN = "state IN ('created', 'metadata-sent', 'uploaded', 'running')"
HELD = "state IN ('faulted', 'failed')"
FINISHED = "state IN ('submitted', 'succeeded', 'cancelled')"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("run", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("started_at", sa.BigInteger(), nullable=True))
    for index in ("unfinished_jobs", "started_jobs", "faulted_jobs", "finished_jobs"):
        op.drop_index(index, "jobs")
    columns = ["submitter", "ae_title", "priority", "job_number", "next_attempt_at"]
    op.create_index("unfinished_jobs", "jobs", columns, sqlite_where=sa.text(UNFINISHED))
    op.create_index("started_jobs", "jobs", ["submitter", "platform_asked_at"], sqlite_where=sa.text(STARTED))
    op.create_index("begun_jobs", "jobs", ["submitter"], sqlite_where=sa.text(BEGUN))
    op.create_index("held_jobs", "jobs", ["ae_title", "job_number"], sqlite_where=sa.text(HELD))
    op.create_index("finished_jobs", "jobs", ["changed_at"], sqlite_where=sa.text(FINISHED))
