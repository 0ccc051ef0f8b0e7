"""Statistics of senders: accepted and rejected associations. `ledger.senders` explains the columns."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "senders",
        sa.Column("calling_ae_title", sa.String(length=16), primary_key=True),
        sa.Column("ae_title", sa.String(length=16), primary_key=True),
        sa.Column("peer_address", sa.String(length=45), primary_key=True),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("first_at", "last_at", "associations", "instances", "refused")
        ),
    )
    op.create_index("senders_by_time", "senders", ["last_at"])
    op.create_table(
        "rejections",
        sa.Column(
            "rejection_number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("peer_address", sa.String(length=45), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("count", "first_at", "last_at")),
        sa.Column("since", sa.BigInteger(), nullable=True),
    )
    op.create_index("rejections_of_hour", "rejections", ["hour", "peer_address"])
