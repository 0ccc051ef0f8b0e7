"""High-water marks of receiver runs: an instance above the mark has lost its row, or never had one."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "commits",
        sa.Column("run", sa.String(length=32), primary_key=True),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("reached", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False, server_default="0"),
    )
