"""The PID of each process, in its row of the health."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("health", sa.Column("pid", sa.Integer(), nullable=True))
