"""An index with which the newest jobs of an AE title are listed without sorting all its jobs.

The index of held jobs is created again: it must be newer, and have all columns, to be preferred where both can be used.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_index("jobs_of_ae_title", "jobs", ["ae_title", "job_number", "state", "submitter"])
    op.drop_index("held_jobs", "jobs")
    is_held = sa.text("state IN ('faulted', 'failed')")
    op.create_index("held_jobs", "jobs", ["ae_title", "job_number", "state"], sqlite_where=is_held)
