"""Jobs that are followed until their end on the platform, in one or more runs."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("run", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("started_at", sa.BigInteger(), nullable=True))
