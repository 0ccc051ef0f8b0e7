"""The storage that belongs to the ledger: its identity and generation (see `ledger.storages`)."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "storages",
        sa.Column("identity", sa.String(length=36), primary_key=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("next_generation", sa.BigInteger(), nullable=True),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
    )
