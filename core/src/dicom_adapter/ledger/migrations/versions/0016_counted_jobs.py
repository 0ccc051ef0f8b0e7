"""An index with which jobs are counted by AE title, submitter and state without reading their rows."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_index("counted_jobs", "jobs", ["ae_title", "submitter", "state"])
