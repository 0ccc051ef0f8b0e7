"""Contexts of traces. `ledger.trace_schema` explains the columns."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "trace_contexts",
        sa.Column("subject", sa.String(32), primary_key=True),
        sa.Column("context", sa.String(55), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
    )
    op.create_index("trace_contexts_by_time", "trace_contexts", ["recorded_at"])
