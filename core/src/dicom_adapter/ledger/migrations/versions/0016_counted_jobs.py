"""An index with which jobs are counted by AE title, submitter and state without reading their rows."""

from alembic import op
from sqlalchemy import text

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    columns = ["ae_title", "submitter", "state"]
    op.create_index("counted_jobs", "jobs", columns, sqlite_where=text("job_number > 0"))
