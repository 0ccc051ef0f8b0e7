"""High-water marks of receiver runs, in the table `commits`.

An instance with a higher number than the mark has no row: the row was lost, or was never written.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "commits",
        sa.Column("run", sa.String(length=32), primary_key=True),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("reached", sa.BigInteger(), nullable=False),  # the high-water mark
        sa.Column("settled", sa.BigInteger(), nullable=False, server_default="0"),  # number of checkpoints of the run
    )
